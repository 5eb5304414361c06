"""Tensors that claim to lie on a GPU, to walk the GPU's paths on any machine and to count what they would cost.

A stand-in has the device ``cuda:0`` and its values on the CPU. Under `counting`, every operation on stand-ins is done
on these values; it counts as a launch of a kernel, unless it only makes a view, and as a wait where a GPU's queue must
be empty before the program can go on: a value that Python reads, a copy between the devices, a shape that depends on
values. An operation that mixes devices is an error, as it is on a GPU.

Gradients are not walked: PyTorch's autograd needs a GPU for tensors that claim one. `computed_here` takes them on the
CPU's values.
"""

import contextlib
import traceback
from collections import Counter

import torch
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from laser_fl.federated.client import ClientGroup
from laser_fl.federated.differentiation import Computed, Differentiation
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.server import Server
from laser_fl.rng import RandomStreams

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}
READS |= {aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor, aten.bincount.default}
COPIES = {aten._to_copy.default, aten.copy_.default}
FREE = {aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.detach.default}
FREE |= {aten.empty_strided.default, aten.new_empty_strided.default, aten._unsafe_view.default, aten.lift_fresh.default}


class StandIn(torch.Tensor):
    """A tensor on `CUDA` by its own word; `values` lie on the CPU."""

    @staticmethod
    def __new__(cls, values):
        stand_in = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device="meta"
        )
        stand_in.values_here = values
        return stand_in

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def tolist(self):
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: called outside of `counting`")


def there(values):
    """Return the stand-in of a tensor, or a tree of them."""
    return tree_map_only(torch.Tensor, lambda t: t if isinstance(t, StandIn) else StandIn(t.detach()), values)


def here(tree):
    """Return the values of a stand-in, or of a tree of them."""
    return tree_map_only(StandIn, lambda t: t.values_here, tree)


class Counts(TorchDispatchMode):
    """The number of launches and waits so far, in all and by operation."""

    def __init__(self):
        super().__init__()
        self.launched, self.waited, self.places = Counter(), Counter(), Counter()

    @property
    def launches(self):
        return self.launched.total()

    @property
    def waits(self):
        return self.waited.total()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        stand_ins = {id(t.values_here): t for t in given if isinstance(t, StandIn)}
        wanted = kwargs.get("device")
        is_there = bool(stand_ins) if wanted is None else torch.device(wanted).type in ("cuda", "meta")
        if not stand_ins and not is_there:
            return function(*args, **kwargs)
        if (
            function is aten._to_copy.default
            and stand_ins
            and is_there
            and kwargs.get("dtype") in (None, args[0].dtype)
        ):
            return args[0]  # PyTorch takes a stand-in's device for another one than its own
        self._count(function, args, kwargs, given, is_there)
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = function(*here(args), **here(kwargs))
        if function is aten.copy_.default:
            return args[0]
        if not is_there:
            return result
        return tree_map_only(torch.Tensor, lambda t: stand_ins[id(t)] if id(t) in stand_ins else StandIn(t), result)

    def _count(self, function, args, kwargs, given, is_there):
        name = str(function.overloadpacket).removeprefix("aten.")
        others = [t for t in given if not isinstance(t, StandIn)]
        if function in COPIES:
            source = given[-1]
            away = not isinstance(source, StandIn)
            crosses = is_there == away if function is aten._to_copy.default else bool(others)
            hurries = kwargs.get("non_blocking", False) or (
                function is aten.copy_.default and len(args) > 2 and args[2]
            )
            self.waited[name] += crosses and not (hurries and getattr(source, "is_pinned_here", False))
        elif function in READS:
            self.waited[name] += "output_size" not in kwargs
        elif name in ("index", "index_put", "index_put_", "_unsafe_index"):
            indices = [i for i in args[1] if i is not None]
            self.waited[name] += sum(
                not isinstance(i, StandIn) or i.dtype in (torch.bool, torch.uint8) for i in indices
            )
        elif any(t.ndim for t in others):
            raise AssertionError(f"{function}: tensors on different devices, {[t.device for t in given]}")
        if self.waited.total() > sum(self.places.values()):
            self.places[_place()] += self.waited.total() - sum(self.places.values())
        self.launched[name] += not (function.is_view or function in FREE or name == "_local_scalar_dense")


def _place():
    """Return the line of the package that caused the operation."""
    frame = next(f for f in reversed(traceback.extract_stack()) if "/laser_fl/" in f.filename)
    return f"{frame.filename.partition('/laser_fl/')[2]}:{frame.lineno}"


def pinned(tensor, *_):
    """Return a copy of a tensor from which copies to a GPU do not wait."""
    copy = tensor.clone()
    copy.is_pinned_here = True
    return copy


@contextlib.contextmanager
def counting(monkeypatch):
    """Count the operations of the body, in which stand-ins may be made and used; yield the counts."""
    drawn, seeded, compute = RandomStreams.generator, RandomStreams.torch_global, Differentiation.__call__

    def computed_here(self, *args):
        with _disable_current_modes():
            one = compute(self, *here(args))
            return Computed(there(one.gradients), there(one.buffers), there(one.losses))

    def generator(self, *key, device="cpu"):
        return drawn(self, *key)

    def torch_global(self, *key, device="cpu"):
        return seeded(self, *key)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.Tensor, "pin_memory", pinned)
        patch.setattr(RandomStreams, "generator", generator)
        patch.setattr(RandomStreams, "torch_global", torch_global)
        patch.setattr(Differentiation, "__call__", computed_here)
        patch.setattr(optimizer, "_foreach_supported_types", [torch.Tensor, torch.nn.Parameter, StandIn])
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with Counts() as counts:
                yield counts
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


def server_and_group(setup):
    """Return a run's two sides on stand-ins, both in this process; call it under `counting`."""
    network, clients = setup.network, range(setup.config.clients)
    server = Server(
        setup.config,
        there(network.weights),
        setup.schedule,
        network.transposed,
        network.undecayed,
        there(network.buffers),
        setup.sizes,
    )
    server.air.draw_here()
    trainer = LocalTrainer(setup.task.to(CUDA), network, setup.config, clients)
    return server, ClientGroup(clients, trainer.answer, device=CUDA)


def whole_round(server, group):
    """Run all exchanges of a round."""
    while not server.aggregate([group.answer(server.broadcast())]):
        pass
