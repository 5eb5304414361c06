"""The meaning of a config for its model, channel and length, without training: what is sent, SNR, costs, the theory."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from laser_fl.blocks import Block, num_values
from laser_fl.channels import orthogonal
from laser_fl.channels.base import Channel, ChannelState
from laser_fl.config import RunConfig
from laser_fl.config.run_config import kebab
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError
from laser_fl.federated.participation import asked
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.setup import data_dir
from laser_fl.models.base import Network, build
from laser_fl.registry import CHANNELS, KINDS, MODELS, OWN, POLICIES, SCHEMES, TASKS
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Scheme
from laser_fl.schemes.laser import Laser
from laser_fl.theory import influence_laser_bound, influence_z_sgd
from simulations.influence import block_power
from simulations.look import BYTES_PER_VALUE
from simulations.volume import volumes

# Tasks whose data may have to be downloaded, and whose models have the sizes that these have by default.
KNOWN_SIZES = ("mnist", "fashion-mnist", "cifar10", *(f"wikitext-{n}{raw}" for n in (2, 103) for raw in ("", "-raw")))


@dataclass(frozen=True)
class Sent:
    """The values that a client sends up in a round. rounds: every, even or odd ones; the first round is even."""

    rounds: str
    values: int
    bytes: int
    side_channel_values: int


@dataclass(frozen=True)
class Snr:
    """Signal-to-noise ratio per value in the first round, in dB, if the power went evenly over the values sent.

    client: of one client alone, P / (d σ²). unlike, alike: of the sum of all that take part, where their signals are
    as strong as each other and orthogonal, or the same: 10 log k and 20 log k more.
    """

    client: float
    unlike: float
    alike: float


@dataclass(frozen=True)
class Influence:
    """The theory's λ, noise energy over gradient energy, of the model's largest matrix at an equal share of the power.

    z_sgd: of Z-SGD. laser_bound: the upper bound of LASER's at the config's rank; None where it sends the matrix whole.
    compressed: number of matrices that LASER compresses; better: of these, in how many its bound is below Z-SGD's λ.
    """

    block: str
    rows: int
    columns: int
    z_sgd: float
    laser_bound: float | None
    compressed: int
    better: int


@dataclass(frozen=True)
class Explanation:
    """The meaning of a config. Numbers of values, energies and times are as in a run's ledger.

    missing: the reason why the data, and with them the number of rounds, are not known; empty where they are.
    rounds, epochs, and all that needs them: None where they are not known.
    power_first: budget of the first round, linear; inf on a noiseless channel. link_bits: capacity of a digital link.
    snr: None without noise and on digital links. influence: None without noise.
    """

    config: RunConfig
    parameters: int
    blocks: int
    sent: Sequence[Sent]
    participants: int
    power_first: float
    noise_variance: float
    snr: Snr | None
    link_bits: float | None
    channel_uses_per_round: float
    downlink_first: int
    influence: Influence | None
    missing: str = ""
    rounds: int | None = None
    rounds_per_epoch: int | None = None
    channel_uses: float | None = None
    energy_per_client: float | None = None
    latency_seconds: float | None = None
    keys: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as one object, with infinity as text, as in a run's files."""
        about = {key: getattr(self.config, key) for key in ("task", "model", "strategy", "clients", "power")}
        content = about | {key: value for key, value in asdict(self).items() if key != "config"}
        strict: dict[str, Any] = _strict(content)
        return strict


def explain(config: RunConfig, given: Sequence[str] = ()) -> Explanation:
    """Explain a config.

    Args:
        config: of a run.
        given: the keys to describe.

    Raises:
        ConfigError: settings do not fit together.
        DataError: the model follows from data that are not there.
    """
    task, missing = _task(config)
    network = _network(config, task)
    scheme: Scheme = SCHEMES.build(config.strategy, config)
    blocks, size = network.blocks, sum(block.size for block in network.blocks)
    sent = [_sent(line, scheme) for line in volumes(config, blocks)]
    schedule = _schedule(config, task)
    first = _first_power(config, schedule, scheme)
    noisy = not math.isinf(first) and config.noise_variance > 0
    digital, here = scheme.traits.digital, asked(config.clients, config.fraction)
    channel: Channel = CHANNELS.build(config.channel, config)
    variance = channel.noise_std(config.clients) ** 2
    uses = _uses(config, sent, size, digital)
    return Explanation(
        config=config,
        parameters=size,
        blocks=len(blocks),
        sent=sent,
        participants=here,
        power_first=first,
        noise_variance=variance,
        snr=_snr(first, variance, sent[0].values, here) if noisy and not digital and sent[0].values else None,
        link_bits=_link_bits(config, first, size, here) if digital else None,
        channel_uses_per_round=uses,
        downlink_first=_downlink(network, scheme, config),
        influence=_influence(config, blocks) if noisy else None,
        missing=missing,
        keys=descriptions(config, given),
        **_totals(config, schedule, uses, size, first),
    )


def descriptions(config: RunConfig, given: Sequence[str]) -> dict[str, str]:
    """Return a sentence on each key: what it is, the part that its value names, and the default."""
    fields = type(config).model_fields
    texts = {}
    for key in given:
        option = fields[key.replace("-", "_")]
        value = getattr(config, key.replace("-", "_"))
        entry = KINDS[key].get(value) if key in KINDS and isinstance(value, str) else None
        part = f"; {value}: {entry.summary}" if entry else ""
        default = "" if option.default == value else f" (default {option.default})"
        texts[f"{kebab(key)}={value}"] = f"{option.description}{part}{default}"
    return texts


def _task(config: RunConfig) -> tuple[Task | None, str]:
    """Load the task where the model or the length follows from its data, as a run does, downloads included.

    Returns:
        The task, or None where nothing follows from it; and the reason where its data are not there.

    Raises:
        ConfigError, DataError: the task has no data, and the model follows from them.
    """
    if config.task == OWN:
        raise ConfigError(f"task: must be the name of a task here, since own data come by laser_fl.train, got {OWN!r}")
    known = config.task in KNOWN_SIZES and config.model in MODELS
    if known and not config.counts_epochs:
        return None, ""
    try:
        return TASKS.build(config.task, config)(data_dir(config), config), ""
    except DataError as error:
        if not known:
            raise
        return None, str(error)


def _network(config: RunConfig, task: Task | None) -> Network:
    """Return the model, without allocating it where it is built in."""
    if config.model not in MODELS:
        assert task is not None
        return task.network(config)
    with torch.device("meta"):
        if task is not None:
            return task.network(config)
        network: Network = build(MODELS.load(config.model), config)
        return network


def _schedule(config: RunConfig, task: Task | None) -> RoundSchedule | None:
    """Return the schedule; None where its number of rounds is not known. Raises ConfigError as a run does."""
    if task is None:
        return RoundSchedule.of(config, 0) if config.rounds else None
    sampler = task.train.sampler(config, range(0))
    return RoundSchedule.of(config, sampler.rounds_per_epoch, sampler.rounds_per_even_epoch)


def _sent(line: Any, scheme: Scheme) -> Sent:
    values = math.ceil(line.bits / orthogonal.WORD) if scheme.traits.digital else line.values
    return Sent(line.rounds, values, values * BYTES_PER_VALUE, line.side_values)


def _first_power(config: RunConfig, schedule: RoundSchedule | None, scheme: Scheme) -> float:
    """Return the budget of the first round; that of many steps where their number is not known."""
    if scheme.traits.noiseless:
        return math.inf
    policy = POLICIES.build(config.power_policy, config)
    return float(policy(config.power, 0, schedule.steps if schedule else config.epochs))


def _snr(power: float, variance: float, values: int, clients: int) -> Snr:
    client, more = 10 * math.log10(power / values / variance), 10 * math.log10(clients)
    return Snr(client, client + more, client + 2 * more)


def _link_bits(config: RunConfig, power: float, size: int, clients: int) -> float:
    """Return the bits that a client's message may have in the first round, on links without fading."""
    links = ChannelState.ideal(clients)
    return float(orthogonal.capacity(links, config.channel_uses or size, power, config.noise_variance)[0])


def _uses(config: RunConfig, sent: Sequence[Sent], size: int, digital: bool) -> float:
    """Return the channel uses of a round, on average over even and odd ones."""
    if digital:
        return float(config.channel_uses or size) if any(line.values for line in sent) else 0.0
    return sum(line.values for line in sent) / len(sent)


def _downlink(network: Network, scheme: Scheme, config: RunConfig) -> int:
    """Return the values of the first broadcast: the model, its buffers, and the shared state of the scheme."""
    shared = scheme.init(network.blocks, RandomStreams(config.seed))
    return num_values(network.weights) + num_values(network.buffers) + num_values(shared)


def _influence(config: RunConfig, blocks: Sequence[Block]) -> Influence:
    """Return the theory's λ of the largest block. Source and assumptions: `simulations.influence.influences`."""
    power, laser = block_power(config, len(blocks)), Laser(config.rank) if config.rank else None
    bounds: list[tuple[float, float | None]] = []
    for block in blocks:
        rows, columns = block.matrix_shape
        bound = None
        if laser is not None and laser.compresses(block):
            bound = influence_laser_bound(power, rows, columns, laser.rank_of(block))
        bounds.append((influence_z_sgd(power, rows, columns), bound))
    place = max(range(len(blocks)), key=lambda i: blocks[i].size)
    compressed = [(z_sgd, bound) for z_sgd, bound in bounds if bound is not None]
    better = sum(bound < z_sgd for z_sgd, bound in compressed)
    return Influence(blocks[place].name, *blocks[place].matrix_shape, *bounds[place], len(compressed), better)


def _totals(config: RunConfig, schedule: RoundSchedule | None, uses: float, size: int, first: float) -> dict[str, Any]:
    """Return what adds up over the run; nothing where its number of rounds is not known.

    The mean of every policy's budgets is the power. A client that the server asks in some rounds only spends less.
    """
    if schedule is None:
        return {}
    noiseless = math.isinf(first)
    down = 0 if noiseless or math.isinf(config.downlink_power) else size
    return {
        "rounds": schedule.rounds,
        "rounds_per_epoch": schedule.rounds_per_epoch or None,
        "channel_uses": uses * schedule.rounds,
        "energy_per_client": None if noiseless else config.power * config.fraction * schedule.rounds,
        "latency_seconds": (uses + down) * schedule.rounds / config.bandwidth,
    }


def _strict(content: Any) -> Any:
    """Replace infinity and NaN, which JSON lacks, by text."""
    if isinstance(content, Mapping):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_strict(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
