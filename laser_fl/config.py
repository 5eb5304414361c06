"""The run config: every key of a run, its rule and its default, and the only parser of it."""

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from laser_fl.errors import ConfigError, brief, quoted
from laser_fl.registry import (
    ALLOCATIONS,
    AUTO,
    CHANNELS,
    FACTOR_EXCHANGES,
    PARTITIONS,
    POLICIES,
    RECOVERIES,
    SCHEMES,
    TASKS,
    TRACKERS,
    UPDATE_FILTERS,
    Table,
)


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _one_of(table: Table, *more: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in (*more, *table):
            raise ValueError(f"must be one of {', '.join((*more, *table))}")
        return name

    return check


def _power(value: float) -> float:
    if math.isnan(value) or value <= 0:
        raise ValueError("must be greater than 0 (inf: no noise)")
    if not SMALLEST <= value <= LARGEST and value < math.inf:
        raise ValueError(f"must be between {SMALLEST:g} and {LARGEST:g}, or inf")
    return value


def _norm_bound(value: float) -> float:
    if not value >= 1:
        raise ValueError("must be at least 1 (inf: none)")
    return value


def _decibels(value: float) -> float:
    if math.isnan(value):
        raise ValueError("must be a number, -inf or inf")
    return value


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


def _path(name: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", name):
        raise ValueError("must be a path without control characters")
    if len(name) > 4000 or any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
        raise ValueError("must be a path of a length that file systems take")
    try:
        Path(name).expanduser()
    except RuntimeError:
        raise ValueError("must be a path in a home folder that is known") from None
    return name


EVALUATIONS = 20  # in a run that does not set evaluate-every
SMALLEST, LARGEST = 1e-30, 1e30  # beyond any channel
Count = Annotated[int, Field(ge=1, lt=2**31)]
CountOrNone = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class RunConfig(BaseModel):
    """The config of one run, frozen. Keys are kebab-case wherever a user writes them.

    The defaults are the newcomer's run: a small network on 5,000 embedded digits, at a power at which noise drowns
    Z-SGD. A run is counted in `rounds`, or, where that is 0, in `epochs`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_kebab, validate_by_name=True, protected_namespaces=()
    )

    task: Annotated[str, AfterValidator(_one_of(TASKS))] = Field("mnist-5k", description="data, loss and metric")
    model: str = Field("mlp", description="network, one of the task's")
    width: Count = Field(64, description="channels of resnet18's first stage")
    layers: Count = Field(12, description="gpt2's blocks")
    heads: Count = Field(12, description="gpt2's attention heads per block")
    embedding: Count = Field(768, description="gpt2's width")
    context: Count = Field(512, description="tokens that gpt2 reads at once")
    tokens: Literal["bytes", "gpt2"] = Field("bytes", description="unit of a text: its bytes, or GPT-2's 50,257 tokens")
    dropout: Fraction = Field(0.0, description="gpt2's dropout; not with client-batching=vmap")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="type of forward and backward passes (autocast); auto: bfloat16 on GPUs, float32 elsewhere",
    )
    partition: Annotated[str, AfterValidator(_one_of(PARTITIONS))] = Field(
        "iid", description="distribution of the examples over the clients"
    )
    dirichlet_alpha: Positive = Field(0.5, description="concentration of partition=dirichlet; small: uneven")
    shards_per_client: Count = Field(2, description="pieces per client, for partition=shards")
    strategy: Annotated[str, AfterValidator(_one_of(SCHEMES))] = Field(
        "laser", description="scheme that encodes the clients' gradients"
    )
    rank: CountOrNone = Field(2, description="rank of laser's factors; 0, for laser-adaptive: as the power allows")
    factor_exchange: Annotated[str, AfterValidator(_one_of(FACTOR_EXCHANGES))] = Field(
        "alternating", description="way in which laser's factors reach the server"
    )
    phase_split: float = Field(0.5, gt=0, lt=1, description="power share of the first of two-phase's phases")
    compression_factor: float = Field(
        0.1, ge=0, le=1, description="values sent per value: random-k (0: as the power allows), sketch, a-dsgd"
    )
    sparsity: float = Field(0.5, gt=0, le=1, description="largest values in a-dsgd's approximation, per value sent")
    recovery: Annotated[str, AfterValidator(_one_of(RECOVERIES))] = Field(
        "lmmse", description="method by which a-dsgd's server recovers the sparse mean"
    )
    receiver: Annotated[str, AfterValidator(_one_of(UPDATE_FILTERS, AUTO))] = Field(
        AUTO, description="update filter of a linear strategy's server; auto: the strategy's own"
    )
    channel: Annotated[str, AfterValidator(_one_of(CHANNELS))] = Field(
        "awgn", description="channel from the clients to the server"
    )
    power: Annotated[float, AfterValidator(_power)] = Field(
        1.0, description="mean power budget of a client per round, linear; inf: no noise"
    )
    noise_variance: NonNegative = Field(1.0, description="variance of the channel noise per value")
    rician_k_db: Annotated[float, AfterValidator(_decibels)] = Field(
        -math.inf, description="line of sight over scattered energy of fading, in dB; -inf: Rayleigh"
    )
    csi_error_variance: NonNegative = Field(
        0.0, description="variance of the error in the gain that fading's clients estimate"
    )
    gain_threshold: NonNegative = Field(0.1, description="least |gain|^2 at which fading's clients transmit; 0: all do")
    path_loss_exponent: float = Field(0.0, ge=0, le=10, description="fading's loss over distance; 0: none")
    cell_radius: float = Field(
        10.0, ge=1, le=1e6, description="radius of the clients' cell, over the distance of no path loss"
    )
    antennas: int = Field(64, ge=1, le=65536, description="antennas of blind's server")
    downlink: Literal["model", "update", "compressed"] = Field(
        "model",
        description="content of broadcasts; compressed: the server's estimates, from which nodes compute the model",
    )
    downlink_power: Annotated[float, AfterValidator(_power)] = Field(
        math.inf, description="power of a broadcast, linear; inf: no noise"
    )
    channel_uses: CountOrNone = Field(
        0, description="channel uses per round, for d-dsgd; 0: as many as the model has values"
    )
    bandwidth: Positive = Field(1e6, description="channel uses per second, for the latency in the ledger")
    power_policy: Annotated[str, AfterValidator(_one_of(POLICIES))] = Field(
        "constant", description="course of the budget over the run"
    )
    power_allocation: Annotated[str, AfterValidator(_one_of(ALLOCATIONS))] = Field(
        "signal-norm", description="split of a round's budget over the model's blocks"
    )
    clients: Count = Field(16, description="number of clients")
    fraction: float = Field(1.0, gt=0, le=1, description="part of the clients that the server asks in a round")
    dropout_rate: Fraction = Field(0.0, description="chance of a client that was asked to drop out of a round")
    client_batching: Literal["auto", "vmap", "loop"] = Field(
        "auto", description="clients in one batched call, or one by one; auto: the faster for the model"
    )
    batch_size: Count = Field(32, description="examples per client and micro-step")
    accumulation_steps: Count = Field(1, description="micro-steps per local step")
    local_steps: Count = Field(1, description="SGD steps of each client on its own model per round")
    local_learning_rate: NonNegative = Field(
        0.0, description="constant size of local steps; 0: the server's learning-rate, under any schedule"
    )
    epochs: CountOrNone = Field(
        60, description="length in passes over the data of the client with most, if rounds is 0"
    )
    rounds: CountOrNone = Field(0, description="length in rounds; 0: as many as epochs take")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="the server's optimizer")
    learning_rate: Positive = Field(0.02, description="the server's step size")
    momentum: Fraction = Field(0.0, description="momentum of sgd; adamw takes (0.9, 0.95)")
    weight_decay: NonNegative = Field(0.0, description="weight decay, at the server")
    lr_schedule: Literal["constant", "cosine", "one-cycle", "step"] = Field(
        "constant", description="step size over the run"
    )
    lr_decay_at: Fraction = Field(0.75, description="part of the run after which lr-schedule=step divides by 10")
    seed: int = Field(0, ge=0, lt=2**63, description="the key of all randomness")
    evaluate_every: CountOrNone = Field(
        0, description="epochs (or rounds, in a run without) between evaluations; 0: about 20 evaluations a run"
    )
    evaluate_examples: CountOrNone = Field(
        0, description="test examples to evaluate on, of all labels and spread over a text; 0: all"
    )
    ema_decay: Fraction = Field(0.99, description="decay per round of the averaged weights")
    spectrum_rank: CountOrNone = Field(
        0,
        description="largest singular values whose part of each update's energy is recorded at evaluations; 0: none",
    )
    checkpoint_every: CountOrNone = Field(100, description="rounds between checkpoints, and one at the end; 0: none")
    resume: Annotated[str, AfterValidator(_path)] = Field(
        "", description="folder of a run to go on with, from its last checkpoint; other keys as there"
    )
    tracker: Annotated[str, AfterValidator(_one_of(TRACKERS))] = Field("none", description="further log of the run")
    min_clients: Count = Field(1, description="least number of clients that reply; with fewer a round is repeated")
    max_retries: CountOrNone = Field(3, description="times that a round is repeated before the run stops")
    norm_cap: Annotated[float, AfterValidator(_norm_bound)] = Field(
        math.inf,
        description="norm bound of a signal, over the usual norm; excess: sent later, or lost without error feedback; "
        "inf: none",
    )
    min_available_nodes: Count = Field(1, description="nodes of a deployment that a run awaits before it begins")
    reply_timeout: Positive = Field(3600.0, description="longest wait for a node's reply, in seconds")
    device: Annotated[str, AfterValidator(_device)] = Field("cpu", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(1, ge=0, le=1024, description="PyTorch threads; 0: PyTorch's own choice")
    data_dir: Annotated[str, AfterValidator(_path)] = Field(
        "", description="folder of the data sets; default $LASER_FL_DATA, else a cache folder"
    )
    out_dir: Annotated[str, AfterValidator(_path)] = Field(
        "", description="the run's folder; default runs/<task>-<strategy>-<time>"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number or a text")
        return value

    @model_validator(mode="after")
    def _keys_fit_together(self) -> "RunConfig":
        models = TASKS[self.task].options
        if self.model not in models:
            raise ValueError(
                f"model: must be one of {', '.join(models)} for task {self.task}, got {quoted(self.model)}"
            )
        if self.model == "gpt2" and self.embedding % self.heads:
            rule = f"must be a multiple of heads, {self.heads}"
            raise ValueError(f"embedding: {rule}, got {self.embedding}")
        if self.rank == 0 and self.strategy == "laser":
            raise ValueError(f"rank: must be greater than 0 for strategy {self.strategy}, got 0")
        if self.compression_factor == 0 and self.strategy in ("sketch", "a-dsgd"):
            raise ValueError(f"compression-factor: must be greater than 0 for strategy {self.strategy}, got 0")
        if self.precision != "float32" and self.client_batching == "vmap":
            rule = f"must be loop or auto for precision {self.precision}"
            raise ValueError(f"client-batching: {rule}, got {self.client_batching!r}")
        if self.downlink == "compressed" and not math.isinf(self.downlink_power):
            rule = "must be inf (no noise) for downlink compressed"
            raise ValueError(f"downlink-power: {rule}, got {self.downlink_power}")
        if self.rounds == 0 and self.epochs == 0:
            raise ValueError("rounds: must be greater than 0 where epochs is 0, got 0")
        return self

    @property
    def evaluation_interval(self) -> int:
        """`evaluate_every`, or the interval that makes about 20 evaluations."""
        return self.evaluate_every or max(1, round((self.rounds or self.epochs) / EVALUATIONS))

    @property
    def length(self) -> str:
        """The key that sets the length of the run: epochs or rounds."""
        return "epochs" if self.counts_epochs else "rounds"

    @property
    def counts_epochs(self) -> bool:
        """True where the run's length, its evaluations and its power levels are counted in epochs."""
        return self.rounds == 0

    def to_flat(self) -> dict[str, str | int | float]:
        """Return the config as flat kebab-case keys, as in a preset or Flower's run config."""
        return self.model_dump(by_alias=True)


def parse(values: Mapping[Any, Any]) -> RunConfig:
    """Read a run config from flat kebab-case keys; strings are converted.

    Raises:
        ConfigError: a value is wrong; a line for each: the key, the rule, the value received.
    """
    texts = {key: value for key, value in values.items() if _is_text(key)}
    wrong = [f"{quoted(key)}: must be a key, which is a text" for key in values if not _is_text(key)]
    try:
        config = RunConfig.model_validate(texts)
    except ValidationError as error:
        raise ConfigError("\n".join([*wrong, *(_line(e) for e in error.errors())])) from None
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def _is_text(key: Any) -> bool:
    """Return True for a key that can be looked up: Python also has texts that cannot be encoded."""
    return isinstance(key, str) and not re.search(r"[\ud800-\udfff]", key)


def _line(error: Any) -> str:
    """Format one of pydantic's errors as one line."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    key = brief(_kebab(str(error["loc"][0]))) or "''"
    if error["type"] == "extra_forbidden":
        keys = [_kebab(name) for name in RunConfig.model_fields]
        if key in keys:
            return f"{key}: must be given once, got {error['loc'][0]}, too"
        near = difflib.get_close_matches(key, keys, n=1)
        return f"{key}: unknown key" + (f", did you mean {near[0]}?" if near else f"; known: {', '.join(keys)}")
    rule = re.sub("^(Input should be|must be|Unable to parse input string as) ", "", message).partition(
        ", unable to parse"
    )[0]
    return f"{key}: must be {rule}, got {quoted(error['input'])}"
