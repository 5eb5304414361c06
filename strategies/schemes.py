"""One strategy per scheme, for use in anybody's ServerApp.

    strategy = Laser(rank=2, power=10.0, learning_rate=0.02)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=600)

Options are the keys of the run config in snake_case, as far as the server needs them; `Options` has them all, typed.
Wrong ones, and those that only a whole run of laser-fl understands, are refused by name.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Unpack

from torch import Tensor

from laser_fl.callbacks import Callback
from laser_fl.channels.base import Channel
from laser_fl.config import parse
from laser_fl.config.keywords import only
from laser_fl.config.server_options import ServerOptions
from laser_fl.federated.loop import Evaluate
from laser_fl.registry import CHANNELS, SCHEMES
from laser_fl.rng import Device
from laser_fl.schemes.base import Scheme
from strategies.over_the_air import OverTheAir


class Options(ServerOptions, total=False):
    """The keyword arguments of every strategy: the server's keys, and the parts of the run that are the caller's.

    channel: a name as in ``laser-fl list``, or an object.
    evaluate: weights -> metrics on test data, for the callbacks. callbacks: called as the run goes on.
    transposed: names of the weights stored as (inputs, outputs). undecayed: names of those without weight decay.
    buffers: tensors of the model, by name, that are not trained but follow the data.
    device: where the server computes.
    sizes: number of examples of each client, for ``client_weighting="examples"``; a client of size 0 never takes part.
    """

    channel: Channel | str
    evaluate: Evaluate | None
    callbacks: Sequence[Callback]
    transposed: Collection[str]
    undecayed: Collection[str]
    buffers: Mapping[str, Tensor] | None
    device: Device
    sizes: Sequence[int]


OF_THE_CALLER = Options.__annotations__.keys() - {*ServerOptions.__annotations__, "channel"}


class _Named(OverTheAir):
    """A strategy with the name of its scheme."""

    strategy: ClassVar[str]

    def __init__(self, **options: Unpack[Options]) -> None:
        """Prepare a run. Raises ConfigError where an option is unknown or its value is wrong."""
        self._prepare(self.strategy, options)

    def _prepare(self, scheme: Scheme | str, options: Options) -> None:
        keys: dict[str, Any] = {name: value for name, value in options.items() if name not in OF_THE_CALLER}
        rest: Any = {name: value for name, value in options.items() if name in OF_THE_CALLER}
        chosen = SCHEMES.choice(scheme), CHANNELS.choice(keys.pop("channel", "awgn"))
        OverTheAir.__init__(self, parse(only(keys, ServerOptions.__annotations__, "a strategy", *chosen)), **rest)


class OwnScheme(_Named):
    """A scheme from outside the package: ``OwnScheme(TopK(keep=0.05), power=10.0)``."""

    def __init__(self, scheme: Scheme | str, **options: Unpack[Options]) -> None:
        """Prepare a run.

        Args:
            scheme: an object, or its name; the client app imports its module, too.
            options: as `Options` has them.

        Raises:
            ConfigError: an option is unknown or its value is wrong.
        """
        self._prepare(scheme, options)


class Laser(_Named):
    """Low-rank factors with error feedback. Source: paper, Algorithm 1."""

    strategy = "laser"


class LaserAdaptive(_Named):
    """A factor along a basis of recent updates, and what else the power carries.

    Source: ours, docs/explanations/adaptive.md.
    """

    strategy = "laser-adaptive"


class ZSgd(_Named):
    """The gradient itself over the noisy channel. Source: paper, (Z-SGD)."""

    strategy = "z-sgd"


class Sgd(_Named):
    """The gradient itself without noise: the baseline. Source: paper, (SGD)."""

    strategy = "sgd"


class Signum(_Named):
    """The gradient's signs. Source: paper, Algorithm 4."""

    strategy = "signum"


class RandomK(_Named):
    """A random part of the values, with error feedback. Source: paper, Algorithm 3."""

    strategy = "random-k"


class Sketch(_Named):
    """Count-mean sketch. Source: paper, Algorithm 2."""

    strategy = "sketch"


class DDsgd(_Named):
    """The digital rival: the largest values that fit into the links. Source: Amiri, Gündüz, 2020."""

    strategy = "d-dsgd"


class ADsgd(_Named):
    """The largest values, projected, with error feedback. Source: Amiri, Gündüz, 2020."""

    strategy = "a-dsgd"
