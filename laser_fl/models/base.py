"""Networks: a module, its trained weights, and the facts needed to view its tensors as matrices."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from laser_fl.blocks import Block, Tensors, blocks_of
from laser_fl.errors import ConfigError, quoted
from laser_fl.registry.options import take_options

T = TypeVar("T")

BATCHED_VALUES = 1 << 20  # of a network whose arithmetic takes no longer than the calls
BATCHED_LAYERS = {
    nn.Sequential,
    nn.Flatten,
    nn.Linear,
    nn.LayerNorm,
    nn.Embedding,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
}


@dataclass(frozen=True)
class Network:
    """A module; its parameters that require a gradient are trained.

    transposed: names of the parameters stored as (inputs, outputs).
    undecayed: names of the parameters to which weight decay does not apply.
    batches: many clients' gradients are faster in one call of vmap than one by one, as measured by
        ``laser-fl bench`` with client-batching=vmap and =loop.
    repeats: its forward passes do the same operations in every call, so that a CUDA graph may repeat them without the
        module's Python code.
    """

    module: nn.Module
    transposed: tuple[str, ...] = ()
    undecayed: tuple[str, ...] = ()
    batches: bool = False
    repeats: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> "Network":
        """Make the network of anybody's module; it batches where that is known to work, and to be faster.

        Raises:
            ConfigError: its weights have no shapes yet.
        """
        if any(is_lazy(parameter) for parameter in module.parameters()):
            raise ConfigError("model: its weights must have shapes, got lazy ones; call the model on an example first")
        network = cls(module, stored_transposed(module))
        known = all(type(layer) in BATCHED_LAYERS for layer in module.modules())
        return replace(network, batches=known and network.is_small, repeats=known)

    def restricted(self, trained: Collection[str], undecayed: Collection[str]) -> "Network":
        """Return the network with some of its weights frozen, in place, and more of them without weight decay.

        Args:
            trained: patterns of names; none: all stay trained.
            undecayed: patterns of names.

        Raises:
            ConfigError: a pattern fits no weight.
        """
        for pattern in (*trained, *undecayed):
            if not any(fnmatchcase(name, pattern) for name, _ in self.module.named_parameters()):
                raise ConfigError(f"model: must have a weight whose name fits {quoted(pattern)}, got none")
        if trained:
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in trained))
        more = [n for n in Network(self.module).weights if any(fnmatchcase(n, pattern) for pattern in undecayed)]
        return replace(self, undecayed=tuple(dict.fromkeys((*self.undecayed, *more))))

    @property
    def is_small(self) -> bool:
        """True where the arithmetic of a gradient takes no longer than its calls."""
        return sum(w.numel() for w in self.weights.values()) <= BATCHED_VALUES

    @property
    def might_batch(self) -> bool:
        """True for a small network all of whose layers with weights are known to batch; its own code may not."""
        layers = self.module.modules()
        leaves = [m for m in layers if not list(m.children()) or list(m.parameters(recurse=False))]
        return self.is_small and not self.draws and all(type(leaf) in BATCHED_LAYERS for leaf in leaves)

    @cached_property
    def weights(self) -> Tensors:
        """The trained parameters, by name and in order."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    @cached_property
    def buffers(self) -> Tensors:
        """The tensors that are not trained but follow the data: a batch-norm's running mean and variance.

        They are the buffers of floating-point type that are part of the module's state.
        """
        state = self.module.state_dict().keys()
        return {n: b.detach() for n, b in self.module.named_buffers() if n in state and b.is_floating_point()}

    @cached_property
    def counts(self) -> Tensors:
        """The integers of the module's state, as a batch norm's number of batches; no run changes them."""
        state = self.module.state_dict().keys()
        return {n: b.detach() for n, b in self.module.named_buffers() if n in state and not b.is_floating_point()}

    @cached_property
    def draws(self) -> bool:
        """True where a layer draws random numbers in training; calls such as ``F.dropout`` are not seen."""
        layers = list(self.module.modules())
        return any(isinstance(m, nn.RReLU) or (isinstance(m, _DropoutNd) and m.p > 0) for m in layers)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The trained parameters as matrices."""
        return blocks_of(self.weights, self.transposed)


def channels_last(images: Tensor) -> Tensor:
    """Return images (batch, channels, height, width) with the channels last in a GPU's memory.

    Convolutions are faster so there, and keep this order for their outputs. vmap knows no such order.
    """
    if images.device.type == "cpu" or torch._C._functorch.is_functorch_wrapped_tensor(images):
        return images
    return images.contiguous(memory_format=torch.channels_last)


def outputs_of(module: nn.Module, state: Tensors, inputs: Any) -> Any:
    """Return a module's outputs at other weights and buffers.

    Args:
        module: the network.
        state: weights and buffers by name; the module's own take the place of those that are missing. Buffers that the
            module sets anew in the call are set in it.
        inputs: a tensor; a tuple is taken as several arguments, a mapping as arguments by name.

    Returns:
        The outputs; of an output object of transformers its logits.
    """
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    outputs = functional_call(module, state, args, dict(inputs) if isinstance(inputs, Mapping) else None)
    return getattr(outputs, "logits", outputs)


def build(builder: Callable[..., T], config: object, fixed: Mapping[str, Any] | None = None) -> T:
    """Call `builder` with its options, which are attributes of `config`, and with those of `fixed` that it takes."""
    fixed = fixed or {}
    takes = inspect.signature(builder).parameters.values()
    all_of_them = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes)
    facts = {name: fixed[name] for name in fixed if all_of_them or name in {parameter.name for parameter in takes}}
    options = {name: value for name, value in take_options(builder, config).items() if name not in facts}
    return builder(**options, **facts)


def stored_transposed(module: nn.Module) -> tuple[str, ...]:
    """Name the weights of transformers' Conv1D layers, which are stored as (inputs, outputs)."""
    return tuple(
        f"{name}.weight"
        for name, layer in module.named_modules()
        if type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
    )
