"""Learning over the air: the core of laser-fl.

Start reading at `laser_fl.pipeline`, the walk of a gradient through the air on one page. Around it:

    schemes/      what clients send: LASER and its baselines, pure functions over explicit state
    channels/     the multiple-access channel and its models; the downlink
    power/        a run's budget over rounds, blocks and signals
    federated/    server and clients, round by round: one loop for all engines
    data/         tasks, their data sets and partitions
    models/       networks
    storage/      a run's folder, checkpoints, trackers
    transport/    a run's messages as Flower records; the only part that imports Flower
    registry      the names of all parts
    config        the run config

Source: Makkuva, Bondaschi, Vogels, Jaggi, Kim, Gastpar, "LASER: Linear Compression in Wireless Distributed
Optimization".
"""
