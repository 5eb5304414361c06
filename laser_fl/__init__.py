"""Learning over the air: the core of laser-fl.

PyTorch only: neither Ray nor Flower is needed here (``wire`` alone imports Flower). Start
reading at `laser_fl.pipeline`, the whole walk of a gradient through the air.

Source: Makkuva, Bondaschi, Vogels, Jaggi, Kim, Gastpar, "LASER: Linear Compression in Wireless
Distributed Optimization".
"""
