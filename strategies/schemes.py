"""One strategy per scheme, for use in anybody's ServerApp.

    strategy = Laser(rank=2, power=10.0, learning_rate=0.02)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=600)

Options are the keys of the run config in snake_case; wrong ones are refused by name.
"""

from typing import Any

from laser_fl.config import RunConfig, parse
from strategies.over_the_air import OverTheAir


class Laser(OverTheAir):
    """Low-rank factors with error feedback. Source: paper, Algorithm 1."""

    def __init__(self, rank: int = 2, power: float = 1.0, **options: Any) -> None:
        """rank: of the factors. power: budget per client and round, linear."""
        super().__init__(parse({"strategy": "laser", "rank": rank, "power": power, **options}))


class ZSgd(OverTheAir):
    """The gradient itself over the noisy channel. Source: paper, (Z-SGD)."""

    def __init__(self, power: float = 1.0, **options: Any) -> None:
        """power: budget per client and round, linear."""
        super().__init__(parse({"strategy": "z-sgd", "power": power, **options}))


class Signum(OverTheAir):
    """The gradient's signs. Source: paper, Algorithm 4."""

    def __init__(self, power: float = 1.0, **options: Any) -> None:
        """power: budget per client and round, linear."""
        super().__init__(parse({"strategy": "signum", "power": power, **options}))


class RandomK(OverTheAir):
    """A random part of the values, with error feedback. Source: paper, Algorithm 3."""

    def __init__(self, compression_factor: float = 0.1, power: float = 1.0, **options: Any) -> None:
        """compression_factor: values sent per value. power: budget per client and round, linear."""
        super().__init__(_compressed("random-k", compression_factor, power, options))


class Sketch(OverTheAir):
    """Count-mean sketch. Source: paper, Algorithm 2."""

    def __init__(self, compression_factor: float = 0.1, power: float = 1.0, **options: Any) -> None:
        """compression_factor: buckets per value. power: budget per client and round, linear."""
        super().__init__(_compressed("sketch", compression_factor, power, options))


class ADsgd(OverTheAir):
    """The largest values, projected, with error feedback. Source: Amiri, Gündüz, 2020."""

    def __init__(self, compression_factor: float = 0.1, power: float = 1.0, **options: Any) -> None:
        """compression_factor: numbers sent per value. power: budget per client and round, linear."""
        super().__init__(_compressed("a-dsgd", compression_factor, power, options))


class Sgd(OverTheAir):
    """The gradient itself without noise: the baseline. Source: paper, (SGD)."""

    def __init__(self, **options: Any) -> None:
        """No power: the channel is noiseless."""
        super().__init__(parse({"strategy": "sgd", **options}))


def _compressed(strategy: str, compression_factor: float, power: float, options: dict[str, Any]) -> RunConfig:
    return parse({"strategy": strategy, "compression-factor": compression_factor, "power": power, **options})
