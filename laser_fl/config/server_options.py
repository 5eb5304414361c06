"""The keys of a run as typed keyword arguments. Written by .ci/generate.py: do not edit."""

from typing import Literal, TypedDict


class ServerOptions(TypedDict, total=False):
    """The keys that the server needs, in snake_case, but for scheme and channel; see ``laser-fl list``."""

    compression_factor: float
    """Values sent per value; 0: as many as the power carries (default 0.1)."""
    sparsity: float
    """Largest values in the approximation, per number sent (default 0.5)."""
    recovery: str
    """Method by which the server recovers the sparse mean (default 'lmmse')."""
    rank: int
    """Rank of bases and factors; 0: as the power allows (default 2)."""
    factor_exchange: str
    """Way of the factors to the server (default 'alternating')."""
    phase_split: float
    """Power share of the first of two-phase's phases (default 0.5)."""
    noise_variance: float
    """Variance σ² of the channel noise per received value (default 1.0)."""
    rician_k_db: float
    """Line of sight K over scattered energy, in dB; -inf: Rayleigh, inf: none scattered (default -inf)."""
    csi_error_variance: float
    """Variance v of the error in the gain that a client estimates (default 0.0)."""
    gain_threshold: float
    """Least |gain|^2 at which a client transmits; 0: all do (default 0.1)."""
    path_loss_exponent: float
    """Exponent α of the loss over distance; 0: none (default 0.0)."""
    cell_radius: float
    """Radius R of the clients' cell, over the distance of no path loss (default 10.0)."""
    antennas: int
    """Antennas M of the server (default 64)."""
    receiver: str
    """Update filter of a linear strategy's server; auto: the strategy's own (default 'auto')."""
    power: float
    """Mean power budget of a client per round, linear; inf: no noise (default 1.0)."""
    downlink: Literal["model", "update", "compressed"]
    """Content of broadcasts; compressed: the server's estimates, from which nodes compute the model (default
    'model')."""
    downlink_power: float
    """Power of a broadcast, linear; inf: no noise (default inf)."""
    channel_uses: int
    """Channel uses per round, for d-dsgd; 0: as many as the model has values (default 0)."""
    bandwidth: float
    """Channel uses per second, for the latency in the ledger (default 1000000.0)."""
    power_policy: str
    """Course of the budget over the run (default 'constant')."""
    power_allocation: str
    """Split of a round's budget over the model's blocks (default 'signal-norm')."""
    clients: int
    """Number of clients (default 16)."""
    fraction: float
    """Part of the clients that the server asks in a round (default 1.0)."""
    dropout_rate: float
    """Chance of a client that was asked to drop out of a round (default 0.0)."""
    optimizer: Literal["sgd", "adamw"]
    """The server's optimizer (default 'sgd')."""
    learning_rate: float
    """The server's step size (default 0.02)."""
    momentum: float
    """Momentum of sgd; adamw takes (0.9, 0.95) (default 0.0)."""
    weight_decay: float
    """Weight decay, at the server (default 0.0)."""
    lr_schedule: Literal["constant", "cosine", "one-cycle", "step"]
    """Step size over the run (default 'constant')."""
    lr_decay_at: float
    """Part of the run after which lr-schedule=step divides by 10 (default 0.75)."""
    seed: int
    """The key of all randomness (default 0)."""
    ema_decay: float
    """Decay per round of the averaged weights (default 0.99)."""
    min_clients: int
    """Least number of clients that reply; with fewer a round is repeated (default 1)."""
    max_retries: int
    """Times that a round is repeated before the run stops (default 3)."""
    norm_cap: float
    """Norm bound of a signal, over the usual norm; excess: sent later, or lost without error feedback; inf: none
    (default inf)."""
    min_available_nodes: int
    """Nodes of a deployment that a run awaits before it begins (default 1)."""


class RunOptions(ServerOptions, total=False):
    """The keys of a run on own data, in snake_case."""

    dirichlet_alpha: float
    """Concentration of the draw; small: uneven (default 0.5)."""
    shards_per_client: int
    """Pieces per client (default 2)."""
    precision: Literal["float32", "bfloat16", "auto"]
    """Type of forward and backward passes (autocast); auto: bfloat16 on GPUs, float32 elsewhere (default
    'float32')."""
    partition: str
    """Distribution of the examples over the clients (default 'iid')."""
    client_batching: Literal["auto", "vmap", "loop"]
    """Clients in one batched call, or one by one; auto: the faster for the model (default 'auto')."""
    batch_size: int
    """Examples per client and micro-step (default 32)."""
    accumulation_steps: int
    """Micro-steps per local step (default 1)."""
    local_steps: int
    """SGD steps of each client on its own model per round (default 1)."""
    local_learning_rate: float
    """Constant size of local steps; 0: the server's learning-rate, under any schedule (default 0.0)."""
    epochs: int
    """Length in passes over the data of the client with most, if rounds is 0 (default 60)."""
    rounds: int
    """Length in rounds; 0: as many as epochs take (default 0)."""
    evaluate_every: int
    """Epochs (or rounds, in a run without) between evaluations; 0: about 20 evaluations a run (default 0)."""
    evaluate_examples: int
    """Test examples to evaluate on, of all labels and spread over a text; 0: all (default 0)."""
    spectrum_rank: int
    """Largest singular values whose part of each update's energy is recorded at evaluations; 0: none (default
    0)."""
    checkpoint_every: int
    """Rounds between checkpoints, and one at the end; 0: none (default 100)."""
    reply_timeout: float
    """Longest wait for a node's reply, in seconds (default 3600.0)."""
    device: str
    """Auto, cpu, cuda or cuda:N (default 'cpu')."""
