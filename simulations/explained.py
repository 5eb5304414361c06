"""An explanation of a config in words: names and values for a screen."""

import math
from collections.abc import Iterator

from simulations.explain import Explanation, Influence, Sent
from simulations.look import BYTES_PER_VALUE, THOUSAND, digits, scaled_bytes
from simulations.run_result import seconds

Row = tuple[str, str]


def title(it: Explanation) -> str:
    """Return a heading: the strategy, the task, the model."""
    return f"{it.config.strategy}: {it.config.task}, {it.config.model}, {it.config.clients} clients"


def rows(it: Explanation) -> list[Row]:
    """Return names and values, of the model, the air, the costs and the theory."""
    return [*_model(it), *_air(it), *_costs(it), *_theory(it)]


def _model(it: Explanation) -> Iterator[Row]:
    yield "model", f"{_values(it.parameters)} in {it.blocks} tensors"
    if it.rounds is None:
        yield "length", f"{it.config.epochs} epochs; the number of rounds follows from the data ({it.missing})"
    elif it.rounds_per_epoch is None:
        yield "length", f"{it.rounds:,} rounds"
    else:
        epochs = digits(it.rounds / it.rounds_per_epoch)
        yield "length", f"{it.rounds:,} rounds, {epochs} epochs of {it.rounds_per_epoch:,}"


def _air(it: Explanation) -> Iterator[Row]:
    """Yield what is sent, with which power and SNR."""
    for line in it.sent:
        when = "in every round" if line.rounds == "every" else f"in {line.rounds} rounds"
        side = scaled_bytes(line.side_channel_values * BYTES_PER_VALUE)
        name = "sent" if line.rounds == "every" else f"sent, {line.rounds}"
        yield name, f"{_values(line.values)} by a client {when}{_fewer(it, line)}; {side} in the side channel"
    yield "power", _power(it)
    yield "SNR", _snr(it)


def _fewer(it: Explanation, line: Sent) -> str:
    if line.values in (0, it.parameters):
        return "" if line.values else ", which is no message"
    return f", {digits(it.parameters / line.values)} times fewer than the model's"


def _power(it: Explanation) -> str:
    if math.isinf(it.power_first):
        return "without limit, and no noise"
    policy = f", {it.config.power_policy}: {digits(it.power_first)} in the first" if _varies(it) else ""
    return f"{digits(it.config.power)} per client and round{policy}; noise variance {digits(it.noise_variance)}"


def _varies(it: Explanation) -> bool:
    return it.config.power_policy != "constant"


def _snr(it: Explanation) -> str:
    if it.link_bits is not None:
        return f"digital: a link carries {digits(it.link_bits)} bits in round 1, and what fits arrives without noise"
    if it.snr is None:
        return "no noise" if it.sent[0].values else "nothing is sent"
    received = f"received from {it.participants} clients: {it.snr.unlike:.1f} dB where their signals are unlike each "
    received += f"other, to {it.snr.alike:.1f} dB where they are the same"
    one = f"{it.snr.client:.1f} dB per value of one client in round 1: power / values sent / noise variance"
    return one if it.participants == 1 else f"{one}; {received}"


def _costs(it: Explanation) -> Iterator[Row]:
    """Yield the costs of the run."""
    uses = f"{digits(it.channel_uses_per_round)} uses a round"
    if it.channel_uses is not None and it.latency_seconds is not None:
        total, air = f"{it.channel_uses:,.0f}", seconds(it.latency_seconds)
        uses += f", {total} in the run: {air} on the air at {digits(it.config.bandwidth)} uses a second"
    yield "channel", uses
    if it.energy_per_client is not None:
        each, together = it.energy_per_client, it.energy_per_client * it.config.clients
        yield "energy", f"at most {_whole(each)} per client in the run, {_whole(together)} of all together"
    yield "downlink", _downlink(it)


def _whole(number: float) -> str:
    return f"{number:,.0f}" if number >= THOUSAND else digits(number)


def _downlink(it: Explanation) -> str:
    """Return what the server broadcasts."""
    first = f"{_values(it.downlink_first)} in the first broadcast"
    kind = {
        "model": "the model and what the strategy shares, in every round",
        "update": "then the model's last step, and what the strategy shares",
        "compressed": "then the server's estimates, as many values as a client sends",
    }[it.config.downlink]
    power = it.config.downlink_power
    return f"{first}, {kind}; {'no noise' if math.isinf(power) else f'with power {digits(power)} a round'}"


def _theory(it: Explanation) -> Iterator[Row]:
    if it.influence is None:
        return
    largest = it.influence
    laser = "" if largest.laser_bound is None else f", LASER's at most {digits(largest.laser_bound)}"
    block = f"{largest.block} ({largest.rows} x {largest.columns})"
    values = f"{block}: Z-SGD's {digits(largest.z_sgd)}{laser}{_better(largest)}"
    yield "theory", f"λ = noise energy / gradient energy, at an equal share of the power; {values}"


def _better(it: Influence) -> str:
    if not it.compressed:
        return "; LASER compresses no matrix here"
    return f"; LASER's is lower in {it.better} of the {it.compressed} matrices that it compresses"


def _values(count: int) -> str:
    return f"{count:,} values ({scaled_bytes(count * BYTES_PER_VALUE)})"
