"""The run config: every key of a run, its rule and its default.

The keys of the parts are declared by the parts, and come from `laser_fl.config.part_options`.
"""

import math
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from laser_fl.config.part_options import DECLARED, PartOptions
from laser_fl.config.rules import (
    Count,
    CountOrNone,
    Device,
    Flag,
    Fraction,
    NonNegative,
    NormBound,
    PathName,
    Positive,
    Power,
    part,
)
from laser_fl.errors import did_you_mean, quoted
from laser_fl.registry import AUTO, KINDS, MODELS, OWN, TASKS, modules_of_outside
from laser_fl.registry.options import hint_in, rule_in

EVALUATIONS = 20  # in a run that does not set evaluate-every


def kebab(name: str) -> str:
    """Return a key as users write it."""
    return name.replace("_", "-")


def refuse_unfit_options(config: BaseModel) -> None:
    """Refuse options that are within the rule of their key, but not within that of the part which is chosen.

    Raises:
        ValueError: the line has the key, the rule, the part and the value.
    """
    for (key, name), options in DECLARED.items():
        if name in KINDS[key].names_in(getattr(config, key.replace("-", "_"))):
            for option, (kind, _) in options.items():
                value = getattr(config, option)
                try:
                    adapter(kind).validate_python(value)
                except ValidationError as error:
                    first = error.errors()[0]
                    rule = f"must be {rule_in(first['msg'])} for {key} {name}"
                    got = f"{value:g}" if isinstance(value, float) else quoted(value)
                    raise ValueError(f"{kebab(option)}: {rule}, got {got}{hint_in(first)}") from None


@cache
def adapter(kind: Any) -> Any:
    """Return the validator of a type with its rule."""
    return TypeAdapter(kind)


class AirConfig(BaseModel):
    """The keys of the air interface: scheme, channel, power, clients; and the steps, for the filter `paced`."""

    strategy: Annotated[str, part("strategy")] = Field(
        "laser", description="scheme that encodes the clients' gradients"
    )
    receiver: Annotated[str, part("receiver", AUTO)] = Field(
        AUTO, description="update filter of a linear strategy's server; auto: the strategy's own"
    )
    channel: Annotated[str, part("channel")] = Field("awgn", description="channel from the clients to the server")
    power: Power = Field(1.0, description="mean power budget of a client per round, linear; inf: no noise")
    channel_uses: CountOrNone = Field(
        0, description="channel uses per round, for d-dsgd; 0: as many as the model has values"
    )
    bandwidth: Positive = Field(1e6, description="channel uses per second, for the latency in the ledger")
    power_policy: Annotated[str, part("power-policy")] = Field(
        "constant", description="course of the budget over the run"
    )
    power_allocation: Annotated[str, part("power-allocation")] = Field(
        "signal-norm", description="split of a round's budget over the model's blocks"
    )
    clients: Count = Field(16, description="number of clients")
    fraction: float = Field(1.0, gt=0, le=1, description="part of the clients that the server asks in a round")
    dropout_rate: Fraction = Field(0.0, description="chance of a client that was asked to drop out of a round")
    client_weighting: Literal["equal", "examples"] = Field(
        "equal", description="weights of the clients in the mean: the same for all, or by their numbers of examples"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="the server's optimizer")
    learning_rate: Positive = Field(0.02, description="the server's step size")
    momentum: Fraction = Field(0.0, description="momentum of sgd; adamw takes (0.9, 0.95)")
    seed: int = Field(0, ge=0, lt=2**63, description="the key of all randomness")
    rng_device: Literal["auto", "cpu"] = Field(
        "auto", description="device that draws noise and indices; auto: where they are needed; cpu: alike everywhere"
    )
    norm_cap: NormBound = Field(
        math.inf,
        description="norm bound of a signal, over the median norm of the round; excess: sent later, or lost without "
        "error feedback; inf: none",
    )


class ServerConfig(AirConfig):
    """The keys that a run's server needs, whatever model and data the clients have."""

    downlink: Literal["model", "update", "compressed"] = Field(
        "model",
        description="content of broadcasts; compressed: the server's estimates, from which nodes compute the model",
    )
    downlink_power: Power = Field(math.inf, description="power of a broadcast, linear; inf: no noise")
    weight_decay: NonNegative = Field(0.0, description="weight decay, at the server")
    lr_schedule: Literal["constant", "cosine", "one-cycle", "step"] = Field(
        "constant", description="step size over the run"
    )
    lr_decay_at: Fraction = Field(0.75, description="part of the run after which lr-schedule=step divides by 10")
    ema_decay: Fraction = Field(0.99, description="decay per round of the averaged weights")
    min_clients: Count = Field(1, description="least number of clients that reply; with fewer a round is repeated")
    max_retries: CountOrNone = Field(3, description="times that a round is repeated before the run stops")
    min_available_nodes: Count = Field(1, description="nodes of a deployment that a run awaits before it begins")


class RunConfig(ServerConfig, PartOptions):
    """The config of one run, frozen. Keys are kebab-case wherever a user writes them.

    The defaults are the newcomer's run: a small network on 5,000 embedded digits, at a power at which noise drowns
    Z-SGD. A run is counted in `rounds`, or, where that is 0, in `epochs`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=kebab, validate_by_name=True, protected_namespaces=()
    )

    task: Annotated[str, part("task", unlisted=OWN)] = Field("mnist-5k", description="data, loss and metric")
    model: str = Field("mlp", description="network, one of the task's, or library:name; auto: the task's first")
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = Field(
        "float32",
        description=(
            "arithmetic of forward and backward passes; tf32: float32 with products of 10 bits on GPUs; auto: bfloat16 "
            "on GPUs, float32 elsewhere"
        ),
    )
    partition: Annotated[str, part("partition")] = Field(
        "iid", description="distribution of the examples over the clients"
    )
    empty_clients: Literal["refuse", "skip"] = Field(
        "refuse", description="a partition that leaves clients without examples: refuse it, or never ask these clients"
    )
    evaluate_clients: Fraction = Field(
        0.0, description="share of each client's examples that is held out from training; a client keeps at least one"
    )
    client_batching: Literal["auto", "vmap", "loop", "graph"] = Field(
        "auto",
        description=(
            "clients in one batched call (vmap), one by one (loop), or one by one by a CUDA graph; auto: the faster "
            "for the model, measured on GPUs"
        ),
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
    evaluate_every: CountOrNone = Field(
        0, description="epochs (or rounds, in a run without) between evaluations; 0: about 20 evaluations a run"
    )
    evaluate_examples: CountOrNone = Field(
        0, description="test examples to evaluate on, of all labels and spread over a text; 0: all"
    )
    spectrum_rank: CountOrNone = Field(
        0,
        description="largest singular values whose part of each update's energy is recorded at evaluations; 0: none",
    )
    checkpoint_every: CountOrNone = Field(100, description="rounds between checkpoints, and one at the end; 0: none")
    resume: PathName = Field(
        "", description="folder of a run to go on with, from its last checkpoint; other keys as there"
    )
    tracker: Annotated[str, part("tracker")] = Field("none", description="further log of the run")
    callbacks: Annotated[str, part("callbacks")] = Field(
        "none", description="called after rounds and evaluations, in this order"
    )
    reply_timeout: Positive = Field(3600.0, description="longest wait for a node's reply, in seconds")
    device: Device = Field("cpu", description="auto, cpu, cuda or cuda:N")
    deterministic: Flag = Field(
        False, description="true: a GPU repeats a run bit by bit, and is slower; a CPU does so anyway"
    )
    data_workers: CountOrNone = Field(
        0, description="processes that read ahead, for data sets that do not fit into tensors; 0: none"
    )
    threads: int = Field(1, ge=0, le=1024, description="PyTorch threads; 0: PyTorch's own choice")
    data_dir: PathName = Field("", description="folder of the data sets; default $LASER_FL_DATA, else a cache folder")
    out_dir: PathName = Field("", description="the run's folder; default runs/<task>-<strategy>-<time>")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and info.field_name != "deterministic":
            raise ValueError("must be a number or a text")
        return value

    @model_validator(mode="after")
    def _keys_fit_together(self) -> "RunConfig":
        models = TASKS[self.task].models if self.task in TASKS else ()
        known = (*models, *MODELS.outside)
        if models and self.model not in known:
            more = "torchvision:NAME, timm:NAME, transformers:PATH or module:function"
            rule = f"must be one of {', '.join(models)} for task {self.task}, or {more}"
            raise ValueError(f"model: {rule}, got {quoted(self.model)}{did_you_mean(self.model, known)}")
        if self.model == "gpt2" and self.embedding % self.heads:
            rule = f"must be a multiple of heads, {self.heads}"
            raise ValueError(f"embedding: {rule}, got {self.embedding}")
        if self.precision in ("bfloat16", "auto") and self.client_batching == "vmap":
            rule = f"must be loop, graph or auto for precision {self.precision}"
            raise ValueError(f"client-batching: {rule}, got {self.client_batching!r}")
        if self.downlink == "compressed" and not math.isinf(self.downlink_power):
            rule = "must be inf (no noise) for downlink compressed"
            raise ValueError(f"downlink-power: {rule}, got {self.downlink_power}")
        if self.rounds == 0 and self.epochs == 0:
            raise ValueError("rounds: must be greater than 0 where epochs is 0, got 0")
        refuse_unfit_options(self)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to other processes as keys and values; classes of parts from outside are loaded anew there."""
        from laser_fl.config.parsing import restored

        return restored, (self.model_dump(by_alias=True, exclude_unset=True), modules_of_outside(self))

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
