"""One strategy per scheme, for use in anybody's ServerApp.

    strategy = Laser(rank=2, power=10.0, learning_rate=0.02)
    result = strategy.start(grid=grid, initial_arrays=write_tensors(weights), num_rounds=600)

Options are the keys of the run config in snake_case, as far as they are the server's; wrong
ones, and those that only a whole run of laser-fl understands, are refused by name.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError
from laser_fl.federated.callbacks import Callback
from laser_fl.federated.loop import Evaluate
from laser_fl.rng import Device
from strategies.over_the_air import OverTheAir

OPTIONS = {
    "rank", "factor_exchange", "phase_split", "compression_factor", "sparsity", "recovery", "receiver",
    "channel", "power", "noise_variance", "power_policy", "power_allocation", "clients", "fraction",
    "dropout_rate", "rician_k_db", "csi_error_variance", "gain_threshold", "path_loss_exponent",
    "cell_radius", "antennas", "downlink", "downlink_power", "channel_uses", "bandwidth",
    "optimizer", "learning_rate", "momentum", "weight_decay", "lr_schedule", "lr_decay_at", "ema_decay", "seed",
    "min_available_nodes", "min_clients", "max_retries", "norm_cap",
}  # fmt: skip


class _Named(OverTheAir):
    """A strategy with the name of its scheme."""

    strategy: ClassVar[str]

    def __init__(
        self,
        *,
        evaluate: Evaluate | None = None,
        callbacks: Sequence[Callback] = (),
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        device: Device = "cpu",
        **options: Any,
    ) -> None:
        """Prepare a run. options: of OPTIONS; the rest as in `OverTheAir`. Raises ConfigError."""
        known = {name.replace("_", "-") for name in RunConfig.model_fields}
        if refused := [key for key in options if key not in OPTIONS and key.replace("_", "-") in known]:
            raise ConfigError(f"{refused[0]}: is not an option of a strategy; those are {', '.join(sorted(OPTIONS))}")
        config = parse({"strategy": self.strategy, **options})
        super().__init__(
            config,
            evaluate=evaluate,
            callbacks=callbacks,
            transposed=transposed,
            undecayed=undecayed,
            buffers=buffers,
            device=device,
        )


class Laser(_Named):
    """Low-rank factors with error feedback. Source: paper, Algorithm 1."""

    strategy = "laser"

    def __init__(self, rank: int = 2, power: float = 1.0, **options: Any) -> None:
        """Prepare a run.

        Args:
            rank: of the factors.
            power: budget per client and round, linear.
            options: of OPTIONS, and the arguments of `OverTheAir`.

        Raises:
            ConfigError: an option is unknown or its value is wrong.
        """
        super().__init__(rank=rank, power=power, **options)


class LaserAdaptive(Laser):
    """A factor along a basis of recent updates, and what else the power carries. Source: ours, docs/adaptive.md."""

    strategy = "laser-adaptive"


class ZSgd(_Named):
    """The gradient itself over the noisy channel. Source: paper, (Z-SGD)."""

    strategy = "z-sgd"

    def __init__(self, power: float = 1.0, **options: Any) -> None:
        """Prepare a run. power: budget per client and round, linear; options: as for `Laser`."""
        super().__init__(power=power, **options)


class Sgd(_Named):
    """The gradient itself without noise: the baseline. Source: paper, (SGD)."""

    strategy = "sgd"


class Signum(ZSgd):
    """The gradient's signs. Source: paper, Algorithm 4."""

    strategy = "signum"


class RandomK(_Named):
    """A random part of the values, with error feedback. Source: paper, Algorithm 3."""

    strategy = "random-k"

    def __init__(self, compression_factor: float = 0.1, power: float = 1.0, **options: Any) -> None:
        """Prepare a run.

        Args:
            compression_factor: numbers sent per value.
            power: budget per client and round, linear.
            options: as for `Laser`.

        Raises:
            ConfigError: an option is unknown or its value is wrong.
        """
        super().__init__(compression_factor=compression_factor, power=power, **options)


class Sketch(RandomK):
    """Count-mean sketch. Source: paper, Algorithm 2."""

    strategy = "sketch"


class DDsgd(_Named):
    """The digital rival: the largest values that fit into the links. Source: Amiri, Gündüz, 2020."""

    strategy = "d-dsgd"

    def __init__(self, channel_uses: int = 0, power: float = 1.0, **options: Any) -> None:
        """Prepare a run.

        Args:
            channel_uses: per round; 0: as many as the model has values.
            power: budget per client and round, linear.
            options: as for `Laser`.

        Raises:
            ConfigError: an option is unknown or its value is wrong.
        """
        super().__init__(channel_uses=channel_uses, power=power, **options)


class ADsgd(RandomK):
    """The largest values, projected, with error feedback. Source: Amiri, Gündüz, 2020."""

    strategy = "a-dsgd"
