"""The names of all parts, each loaded on first use, so that a list of them costs nothing.

A new scheme, channel, policy, allocation or task is one new file and one line in its table.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a table.

    target: ``module:object``, imported when first asked for.
    summary: what it is, one line, for ``laser-fl list``.
    options: names it accepts in turn (a task's models).
    """

    target: str
    summary: str
    options: tuple[str, ...] = ()


class Table(Mapping[str, Entry]):
    """Named entries in reading order; `load` imports the object behind a name."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """Import and return the object behind `name`. Raises KeyError for an unknown name."""
        return resolve_name(self[name].target)

    def name_of(self, part: object) -> str:
        """The name under which a part's class, or the nearest class above it, is listed."""
        names = {entry.target: name for name, entry in self.items()}
        targets = (f"{cls.__module__}:{cls.__qualname__}" for cls in type(part).__mro__)
        return next(names[target] for target in targets if target in names)


def from_fields(cls: type[T], source: object) -> T:
    """Build the dataclass `cls` from the attributes of `source` that carry its fields' names.

    This is how a scheme or channel takes what it needs from a run config.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(source, name) for name in names})


SCHEMES = Table(
    {
        "sgd": Entry("laser_fl.schemes.z_sgd:Sgd", "the gradient itself on a noiseless channel"),
        "z-sgd": Entry("laser_fl.schemes.z_sgd:ZSgd", "the gradient itself"),
        "signum": Entry("laser_fl.schemes.signum:Signum", "the gradient's signs"),
        "random-k": Entry("laser_fl.schemes.random_k:RandomK", "a random part of the values, with error feedback"),
        "sketch": Entry("laser_fl.schemes.sketch:Sketch", "count-mean sketch of the gradient"),
        "a-dsgd": Entry("laser_fl.schemes.a_dsgd:ADsgd", "the largest values, projected, with error feedback"),
        "d-dsgd": Entry("laser_fl.schemes.d_dsgd:DDsgd", "digital: the largest values that fit, with error feedback"),
        "laser": Entry("laser_fl.schemes.laser:Laser", "low-rank factors, with error feedback"),
        "laser-adaptive": Entry(
            "laser_fl.schemes.laser_adaptive:LaserAdaptive",
            "ours: a factor along recent updates, and as much else as the power carries",
        ),
    }
)

FACTOR_EXCHANGES = Table(
    {
        "alternating": Entry(
            "laser_fl.schemes.laser:Laser",
            "one factor a round, in turn (the paper's experiments)",
        ),
        "two-phase": Entry(
            "laser_fl.schemes.laser_variants:TwoPhase", "both factors in one round, one after the other (PowerSGD)"
        ),
        "one-shot": Entry(
            "laser_fl.schemes.laser_variants:OneShot",
            "both factors in one transmission (Algorithm 1 to the letter)",
        ),
    }
)

RECOVERIES = Table(
    {
        "lmmse": Entry(
            "laser_fl.schemes.a_dsgd:lmmse", "linear minimum mean-square error (the paper's pseudo-inverse)"
        ),
        "amp": Entry("laser_fl.schemes.a_dsgd:amp", "approximate message passing, which knows that it is sparse"),
    }
)

CHANNELS = Table(
    {
        "awgn": Entry("laser_fl.channels.awgn:Awgn", "the air adds up, Gaussian noise comes on top"),
        "fading": Entry("laser_fl.channels.fading:Fading", "Rayleigh or Rician gains, which the clients invert"),
        "blind": Entry("laser_fl.channels.blind:Blind", "gains that no client knows; the server has many antennas"),
    }
)

ALLOCATIONS = Table(
    {
        "signal-norm": Entry(
            "laser_fl.power.allocations:signal_norm", "by the norm of what is sent (the paper's best)"
        ),
        "uniform": Entry("laser_fl.power.allocations:uniform", "the same for every block"),
        "gradient-norm": Entry("laser_fl.power.allocations:gradient_norm", "by the norm of the corrected gradient"),
        "gradient-norm-squared": Entry("laser_fl.power.allocations:gradient_norm_squared", "by its energy"),
        "min-mse": Entry("laser_fl.power.allocations:min_mse", "least summed noise, P_l by c_l sqrt(d_l)"),
    }
)

POLICIES = Table(
    {
        "constant": Entry("laser_fl.power.policies:constant", "the same budget throughout (the paper's best)"),
        "linear-up": Entry("laser_fl.power.policies:linear_up", "from P/3 to 5P/3"),
        "linear-down": Entry("laser_fl.power.policies:linear_down", "from 5P/3 to P/3"),
        "steps-up": Entry("laser_fl.power.policies:steps_up", "P/3, 2P/3, P, 4P/3, 5P/3"),
        "steps-down": Entry("laser_fl.power.policies:steps_down", "5P/3, 4P/3, P, 2P/3, P/3"),
    }
)

UPDATE_FILTERS = Table(
    {
        "plain": Entry("laser_fl.federated.update_filters:plain", "takes the update as it is (the paper)"),
        "wiener": Entry(
            "laser_fl.federated.update_filters:wiener", "weighs it by how reliable the sum of all so far is"
        ),
        "paced": Entry(
            "laser_fl.federated.update_filters:paced", "as wiener, but never below what a run of its length needs"
        ),
    }
)
AUTO = "auto"  # the scheme's own

TASKS = Table(
    {
        "mnist-5k": Entry("laser_fl.data.mnist:load_mnist_5k", "5,000 handwritten digits, embedded", ("linear", "mlp")),
        "mnist": Entry("laser_fl.data.mnist:load_mnist", "70,000 handwritten digits", ("linear", "mlp")),
        "fashion-mnist": Entry(
            "laser_fl.data.mnist:load_fashion_mnist", "70,000 pieces of clothing", ("linear", "mlp")
        ),
        "cifar10": Entry("laser_fl.data.cifar:load_10", "60,000 colour images, 10 classes", ("resnet18",)),
        "cifar100": Entry("laser_fl.data.cifar:load_100", "60,000 colour images, 100 classes", ("resnet18",)),
        "wikitext-2": Entry(
            "laser_fl.data.text:load_wikitext_2", "2 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-2-raw": Entry(
            "laser_fl.data.text:load_wikitext_2_raw", "2 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "wikitext-103": Entry(
            "laser_fl.data.text:load_wikitext_103", "103 million words of Wikipedia, rare ones as <unk>", ("gpt2",)
        ),
        "wikitext-103-raw": Entry(
            "laser_fl.data.text:load_wikitext_103_raw", "103 million words of Wikipedia, raw: every one", ("gpt2",)
        ),
        "pydoc": Entry("laser_fl.data.text:load_pydoc", "Python's own documentation, embedded", ("gpt2",)),
    }
)

MODELS = Table(
    {
        "linear": Entry("laser_fl.models.small:linear", "784 -> 10, the paper's network for MNIST"),
        "mlp": Entry("laser_fl.models.small:mlp", "784 -> 256 -> 10"),
        "resnet18": Entry("laser_fl.models.resnet18:resnet18", "ResNet18 for 32 x 32 images and 10 classes"),
        "gpt2": Entry("laser_fl.models.gpt2:gpt2", "GPT-2, 12 layers, vocabulary 50304, context 512, without biases"),
    }
)

PARTITIONS = Table(
    {
        "iid": Entry("laser_fl.data.partition:iid", "dealt at random, equally many to each client"),
        "dirichlet": Entry("laser_fl.data.partition:dirichlet", "each label by a Dirichlet draw over clients"),
        "shards": Entry("laser_fl.data.partition:shards", "sorted by label, so many pieces to each client"),
    }
)

TRACKERS = Table(
    {
        "none": Entry("laser_fl.storage.trackers.base:Tracker", "the run's folder does"),
        "tensorboard": Entry("laser_fl.storage.trackers.tensorboard:TensorBoard", "TensorBoard, in the run's folder"),
        "wandb": Entry(
            "laser_fl.storage.trackers.weights_and_biases:WeightsAndBiases", "Weights & Biases (extra `wandb`)"
        ),
    }
)
