"""The arrays with which a run starts, each with its role, and those with which it ends.

A PyTorch state dict has more in it than weights: a batch norm's statistics, which follow the data, and integers such as
its number of batches, which no gradient changes. Nothing in it says which is which, so that buffers are named.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord

from laser_fl.blocks import Tensors
from laser_fl.errors import ConfigError, quoted
from laser_fl.rng import Device
from laser_fl.transport.arrays import read_tensors, write_tensors

COUNTED = ("int", "uint", "bool")  # types that cannot be trained
STATISTICS = ("running_mean", "running_var")  # names of a batch norm's, in PyTorch
NAMED = 3  # tensors that a message names


@dataclass(frozen=True)
class Template:
    """The part of a model's arrays that no run changes.

    names: of all its arrays, in order. constants: the arrays that are neither weights nor buffers.
    """

    names: tuple[str, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)

    def fill(self, tensors: Tensors) -> ArrayRecord:
        """Return the whole model with these weights and buffers."""
        arrays = {**write_tensors(tensors), **self.constants}
        return ArrayRecord({name: arrays[name] for name in self.names})


def completed(arrays: ArrayRecord, buffers: Tensors) -> ArrayRecord:
    """Return the arrays of a whole model: those given where any buffer is among them, else with the buffers."""
    if any(name in arrays for name in buffers):  # a state dict, from which PyTorch may have left some on purpose
        return arrays
    return ArrayRecord({**arrays, **write_tensors(buffers)})


def read_model(arrays: ArrayRecord, buffers: Tensors, device: Device = "cpu") -> tuple[Tensors, Tensors, Template]:
    """Split a model's arrays by their roles.

    Arrays of integers and of truth values are constants, named as buffers or not.

    Args:
        arrays: of the whole model.
        buffers: the tensors that are not trained but follow the data; their values in `arrays` precede these.
        device: where weights and buffers are wanted.

    Returns:
        (weights, buffers, template).

    Raises:
        ConfigError: a batch norm's statistics are not among the buffers.
        WireError: an array is not readable.
    """
    constants = {name: array for name, array in arrays.items() if array.dtype.startswith(COUNTED)}
    tensors = read_tensors(ArrayRecord({n: a for n, a in arrays.items() if n not in constants}), device)
    weights = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    _refuse_statistics(weights)
    following = {name: tensors.get(name, buffer) for name, buffer in buffers.items() if name not in constants}
    floats = {name: buffer for name, buffer in following.items() if buffer.is_floating_point()}
    return weights, floats, Template(tuple(arrays), constants)


def _refuse_statistics(weights: Collection[str]) -> None:
    """Raise ConfigError where weights are a batch norm's statistics, by their names."""
    if statistics := [name for name in weights if name.endswith(STATISTICS)]:
        more = f" and {len(statistics) - NAMED} more" if len(statistics) > NAMED else ""
        raise ConfigError(
            f"buffers: must have the batch-norm statistics {', '.join(map(quoted, statistics[:NAMED]))}{more}, as in "
            "buffers=dict(model.named_buffers()), so that they follow the clients' data; got them as weights"
        )
