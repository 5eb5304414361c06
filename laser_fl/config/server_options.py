"""The keys of a run as typed keyword arguments. Written by .ci/generate.py: do not edit."""

from typing import Literal, TypedDict


class AirOptions(TypedDict, total=False):
    """The keys of an air interface, but for scheme and channel, in snake_case; see ``laser-fl list``."""

    compression_factor: float
    """values sent per value; 0: as many as the power carries (default 0.1)."""
    sparsity: float
    """largest values in the approximation, per number sent (default 0.5)."""
    recovery: str
    """method by which the server recovers the sparse mean (default 'lmmse')."""
    rank: int
    """rank of bases and factors; 0: as the power allows (default 2)."""
    factor_exchange: str
    """way of the factors to the server (default 'alternating')."""
    phase_split: float
    """power share of the first of two-phase's phases (default 0.5)."""
    noise_variance: float
    """variance σ² of the channel noise per received value (default 1.0)."""
    rician_k_db: float
    """line of sight K over scattered energy, in dB; -inf: Rayleigh, inf: none scattered (default -inf)."""
    csi_error_variance: float
    """variance v of the error in the gain that a client estimates (default 0.0)."""
    gain_threshold: float
    """least |gain|^2 at which a client transmits; 0: all do (default 0.1)."""
    path_loss_exponent: float
    """exponent α of the loss over distance; 0: none (default 0.0)."""
    cell_radius: float
    """radius R of the clients' cell, over the distance of no path loss (default 10.0)."""
    antennas: int
    """antennas M of the server (default 64)."""
    receiver: str
    """update filter of a linear strategy's server; auto: the strategy's own (default 'auto')."""
    power: float
    """mean power budget of a client per round, linear; inf: no noise (default 1.0)."""
    channel_uses: int
    """channel uses per round, for d-dsgd; 0: as many as the model has values (default 0)."""
    bandwidth: float
    """channel uses per second, for the latency in the ledger (default 1000000.0)."""
    power_policy: str
    """course of the budget over the run (default 'constant')."""
    power_allocation: str
    """split of a round's budget over the model's blocks (default 'signal-norm')."""
    clients: int
    """number of clients (default 16)."""
    fraction: float
    """part of the clients that the server asks in a round (default 1.0)."""
    dropout_rate: float
    """chance of a client that was asked to drop out of a round (default 0.0)."""
    client_weighting: Literal["equal", "examples"]
    """weights of the clients in the mean: the same for all, or by their numbers of examples (default 'equal')."""
    optimizer: Literal["sgd", "adamw"]
    """the server's optimizer (default 'sgd')."""
    learning_rate: float
    """the server's step size (default 0.02)."""
    momentum: float
    """momentum of sgd; adamw takes (0.9, 0.95) (default 0.0)."""
    seed: int
    """the key of all randomness (default 0)."""
    rng_device: Literal["auto", "cpu"]
    """device that draws noise and indices; auto: where they are needed; cpu: alike everywhere (default
    'auto')."""
    norm_cap: float
    """norm bound of a signal, over the median norm of the round; excess: sent later, or lost without error
    feedback; inf: none (default inf)."""


class ServerOptions(AirOptions, total=False):
    """The keys of a server, in snake_case; see ``laser-fl list``."""

    downlink: Literal["model", "update", "compressed"]
    """content of broadcasts; compressed: the server's estimates, from which nodes compute the model (default
    'model')."""
    downlink_power: float
    """power of a broadcast, linear; inf: no noise (default inf)."""
    weight_decay: float
    """weight decay, at the server (default 0.0)."""
    lr_schedule: Literal["constant", "cosine", "one-cycle", "step"]
    """step size over the run (default 'constant')."""
    lr_decay_at: float
    """part of the run after which lr-schedule=step divides by 10 (default 0.75)."""
    ema_decay: float
    """decay per round of the averaged weights (default 0.99)."""
    min_clients: int
    """least number of clients that reply; with fewer a round is repeated (default 1)."""
    max_retries: int
    """times that a round is repeated before the run stops (default 3)."""
    min_available_nodes: int
    """nodes of a deployment that a run awaits before it begins (default 1)."""


class RunOptions(ServerOptions, total=False):
    """The keys of a run on own data, in snake_case; see ``laser-fl list``."""

    dirichlet_alpha: float
    """concentration of the draw; small: uneven (default 0.5)."""
    shards_per_client: int
    """pieces per client (default 2)."""
    monitor: str
    """score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights (default '')."""
    min_delta: float
    """least change that early-stopping and reduce-on-plateau count as better (default 0.0)."""
    patience: int
    """evaluations in a row without a better score after which early-stopping ends a run (default 5)."""
    plateau_patience: int
    """evaluations in a row without a better score after which reduce-on-plateau acts (default 2)."""
    plateau_factor: float
    """factor by which reduce-on-plateau multiplies the learning rate (default 0.5)."""
    precision: Literal["float32", "tf32", "bfloat16", "auto"]
    """arithmetic of forward and backward passes; tf32: float32 with products of 10 bits on GPUs; auto: bfloat16
    on GPUs, float32 elsewhere (default 'float32')."""
    partition: str
    """distribution of the examples over the clients (default 'iid')."""
    empty_clients: Literal["refuse", "skip"]
    """a partition that leaves clients without examples: refuse it, or never ask these clients (default
    'refuse')."""
    evaluate_clients: float
    """share of each client's examples that is held out from training; a client keeps at least one (default
    0.0)."""
    client_batching: Literal["auto", "vmap", "loop", "graph"]
    """clients in one batched call (vmap), one by one (loop), or one by one by a CUDA graph; auto: the faster for
    the model, measured on GPUs (default 'auto')."""
    batch_size: int
    """examples per client and micro-step (default 32)."""
    accumulation_steps: int
    """micro-steps per local step (default 1)."""
    local_steps: int
    """SGD steps of each client on its own model per round (default 1)."""
    local_learning_rate: float
    """constant size of local steps; 0: the server's learning-rate, under any schedule (default 0.0)."""
    epochs: int
    """length in passes over the data of the client with most, if rounds is 0 (default 60)."""
    rounds: int
    """length in rounds; 0: as many as epochs take (default 0)."""
    evaluate_every: int
    """epochs (or rounds, in a run without) between evaluations; 0: about 20 evaluations a run (default 0)."""
    evaluate_examples: int
    """test examples to evaluate on, of all labels and spread over a text; 0: all (default 0)."""
    spectrum_rank: int
    """largest singular values whose part of each update's energy is recorded at evaluations; 0: none (default
    0)."""
    checkpoint_every: int
    """rounds between checkpoints, and one at the end; 0: none (default 100)."""
    reply_timeout: float
    """longest wait for a node's reply, in seconds (default 3600.0)."""
    device: str
    """auto, cpu, cuda or cuda:N (default 'cpu')."""
    deterministic: bool
    """true: a GPU repeats a run bit by bit, and is slower; a CPU does so anyway (default False)."""
    data_workers: int
    """processes that read ahead, for data sets that do not fit into tensors; 0: none (default 0)."""
