"""Trials before a run: of a gradient, so that what cannot be trained is refused, and of ways to compute many."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.examples import Examples
from laser_fl.data.metrics import IGNORED
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.data.trees import Tree, mapped, of_one_client, with_clients_axis
from laser_fl.errors import ConfigError, DataError, LaserError, brief, quoted, reason_of
from laser_fl.federated.differentiation import Differentiation, autocast, products
from laser_fl.federated.evaluation import evaluate, measured
from laser_fl.federated.traced import CALLS
from laser_fl.models.base import Network, outputs_of
from laser_fl.rng import RandomStreams

Way = Literal["loop", "graph", "vmap"]  # client by client; likewise by a CUDA graph; many in one call

GAIN = 1.05  # of another way over the loop, to be worth its memory
TIMED = 5  # calls
EXAMPLES = 2  # batch norm needs as many
BROADCASTS = "Using a target size"  # torch's warning of a regression's outputs and targets that do not fit


def refuse_untrainable(task: Task, network: Network, config: RunConfig) -> None:
    """Refuse a model that cannot be trained on the data. The trial changes neither model nor random draws.

    Args:
        task: of the run, its data on the device that computes.
        network: on the same device.
        config: of the run.

    Raises:
        ConfigError: the model has no weights, or some of another type than float32 and float64, or a batch norm without
            a momentum.
        DataError: data, model, loss and metrics do not fit together.
    """
    _refuse_model(network)
    network.module.train()
    with RandomStreams(config.seed).torch_global("trial", device=_device(network)), warnings.catch_warnings():
        warnings.filterwarnings("error", BROADCASTS)
        inputs, targets = _batch(task, network, min(EXAMPLES, config.batch_size))
        leaves = {name: weight.detach().requires_grad_() for name, weight in network.weights.items()}
        with products(config, _device(network)), autocast(config, _device(network)):
            with _naming("model: cannot be trained on these data"):
                outputs = outputs_of(network.module, leaves | _cloned(network.buffers | network.counts), inputs)
            _refuse_labels(task, outputs)
            with _naming(f"loss: does not fit the model's outputs{_shape(outputs)} and the targets{_shape(targets)}"):
                loss = task.loss(outputs, targets)
        _refuse_no_scalar(loss)
        with _naming("model: has no gradient" if loss.requires_grad else "loss: must depend on the model's weights"):
            torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        with _naming("model: cannot be evaluated on the test data"):
            _try_evaluation(task, network, config)


def way_of(task: Task, network: Network, config: RunConfig, clients: int, at_once: int) -> Way:
    """Choose the way in which the gradients of clients are computed.

    With client-batching=auto, a GPU measures those that are possible on a batch of the run's size, so that the choice
    may differ between runs; with deterministic=true it is a CUDA graph wherever the model can be repeated.

    Args:
        task: as for `refuse_untrainable`.
        network: as there.
        config: of the run.
        clients: in this process.
        at_once: clients in one call of vmap, at most.
    """
    asked, on_gpu = config.client_batching, _device(network).type != "cpu"
    if asked == "graph" and network.draws:
        warnings.warn("client-batching: clients go one by one without a CUDA graph: the model draws", stacklevel=2)
        return "loop"
    if asked in ("loop", "graph"):
        return asked
    ways: list[Way] = ["loop"]
    if on_gpu and asked == "auto" and network.repeats and task.loss is cross_entropy_of_all:
        ways.append("graph")
    if on_gpu and asked == "auto" and config.deterministic:
        return ways[-1]
    if clients > 1 and task.train.stacked and _batches(task, network, config, on_gpu):
        ways.append("vmap")
    if not on_gpu or asked == "vmap" or len(ways) == 1:
        return ways[-1]
    sizes = {way: min(clients, at_once) if way == "vmap" else 1 for way in ways}
    return fastest({way: seconds_per_client(task, network, config, way, size) for way, size in sizes.items()})


def fastest(seconds: Mapping[Way, float]) -> Way:
    """Return the fastest way, by seconds per client; the loop, unless another is clearly faster."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * GAIN < seconds["loop"] else "loop"


def seconds_on_gpu(call: Callable[[], object]) -> float:
    """Measure the time of a call, once kernels are chosen and graphs captured."""
    for _ in range(CALLS):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(TIMED):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / TIMED


def seconds_per_client(
    task: Task,
    network: Network,
    config: RunConfig,
    way: Way,
    clients: int,
    seconds_of: Callable[[Callable[[], object]], float] = seconds_on_gpu,
) -> float:
    """Measure the gradients of clients on a batch of the run's size.

    Args:
        task: as for `refuse_untrainable`.
        network: as there.
        config: of the run.
        way: to compute them.
        clients: in one call.
        seconds_of: measures a call.

    Returns:
        The seconds per client; inf where the way fails, as for want of memory.
    """
    network.module.train()
    try:
        with RandomStreams(config.seed).torch_global("trial", device=_device(network)):
            batch = _batch(task, network, config.batch_size)
            inputs, targets = (mapped(lambda tensor: _repeated(tensor, clients), part) for part in batch)
            differentiate, buffers = Differentiation(task, network, config, way == "graph"), network.buffers
            args = network.weights, False, _rows(buffers, clients), inputs, targets
            seconds = seconds_of(lambda: differentiate(*args)) / clients
            return math.inf if way == "graph" and not differentiate.has_graph else seconds
    except Exception:  # of many kinds: the model's own, and CUDA's
        return math.inf


def _batches(task: Task, network: Network, config: RunConfig, on_gpu: bool) -> bool:
    """Return True where many clients can be computed in one call, and on a CPU are known to be faster so."""
    known = network.batches and task.loss is cross_entropy_of_all
    if config.client_batching == "vmap":
        return known or can_batch(task, network, config)
    if network.draws or config.precision not in ("float32", "tf32"):
        return False
    return known or ((on_gpu or network.batches or network.might_batch) and can_batch(task, network, config))


def can_batch(task: Task, network: Network, config: RunConfig) -> bool:
    """Try two clients in one call of vmap, and compare their gradients with those of one client.

    Where client-batching=vmap asks for what does not work, a warning gives the reason.

    Args:
        task: as for `refuse_untrainable`.
        network: as there.
        config: of the run.
    """
    inputs, targets = map(with_clients_axis, _batch(task, network, config.batch_size))
    exact = config.model_copy(update={"precision": "float32"})  # rounding must not look like a difference
    differentiate = Differentiation(task, network, exact)
    network.module.train()
    try:
        with RandomStreams(config.seed).torch_global("trial", device=_device(network)):
            one = differentiate(network.weights, False, _rows(network.buffers, 1), inputs, targets)
            two = (mapped(_twice, part) for part in (inputs, targets))
            many = differentiate(network.weights, False, _rows(network.buffers, 2), *two)
        pairs = [(many.gradients[name][0], gradient[0]) for name, gradient in one.gradients.items()]
        if all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs):
            return True
        reason = "its gradients come out differently"
    except Exception as error:
        reason = brief(reason_of(error))
    if config.client_batching == "vmap":
        warnings.warn(
            f"client-batching: clients go one by one, since vmap cannot batch the model: {reason}", stacklevel=2
        )
    return False


def _refuse_model(network: Network) -> None:
    """Refuse a model whose weights or buffers a run cannot carry. Raises ConfigError."""
    if not network.weights:
        raise ConfigError("model: must have weights to train, got none")
    for name, weight in network.weights.items():
        if weight.dtype not in (torch.float32, torch.float64):
            rule = "must be float32 or float64; with precision=bfloat16 these are computed in bfloat16"
            raise ConfigError(f"model: its weights {rule}, got {weight.dtype} for {quoted(name)}")
    for name, layer in network.module.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None:
            raise ConfigError(f"model: a batch norm must have a momentum, got None for {quoted(name)}")


def _try_evaluation(task: Task, network: Network, config: RunConfig) -> None:
    """Measure a few test examples, or all where a metric needs more, as one of both classes. Raises DataError."""
    state = network.weights | network.buffers
    try:
        measured(task, network.module, state, config, [_first(task.test, EXAMPLES)])
    except DataError:
        evaluate(task, network.module, state, config)


def _batch(task: Task, network: Network, count: int) -> tuple[Tree, Tree]:
    """Return `count` training examples as the model reads them, on its device."""
    device = _device(network)
    inputs, targets = (mapped(lambda tensor: tensor.to(device), part) for part in _first(task.train, count))
    if task.augment is not None:
        with _naming("augment: cannot be applied to the inputs"):
            generators = [RandomStreams(0).generator("trial")]
            inputs = of_one_client(task.augment(with_clients_axis(inputs), generators))
    with _naming("prepare: cannot be applied to the inputs"):
        return task.prepare(inputs) if task.prepare else inputs, targets


def _first(data: Any, count: int) -> tuple[Tree, Tree]:
    return next(iter(data.batches(min(count, len(data)), count)))  # type: ignore[no-any-return]


def _refuse_labels(task: Task, outputs: Any) -> None:
    """Refuse classes that the outputs of a classifier do not have. Raises DataError."""
    if task.loss is not cross_entropy_of_all or not isinstance(outputs, Tensor) or outputs.ndim == 0:
        return
    classes = outputs.shape[-1]
    for name, data in (("train", task.train), ("test", task.test)):
        if isinstance(data, Examples) and not data.targets.is_floating_point():
            counted = data.targets[data.targets != IGNORED]
            wrong = counted[(counted < 0) | (counted >= classes)]
            if len(wrong):
                rule = f"must have targets from 0 to {classes - 1} for a model of {classes} outputs"
                raise DataError(f"{name} data: {rule}, got {int(wrong[0])}")


def _refuse_no_scalar(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        raise DataError(f"loss: must be a scalar, the mean over a batch, got {type(loss).__name__}{_shape(loss)}")


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Raise a DataError in the place of an error of other code."""
    try:
        yield
    except LaserError:
        raise
    except Exception as error:
        raise DataError(f"{what}: {type(error).__name__}: {brief(reason_of(error))}") from error


def _device(network: Network) -> torch.device:
    return next(iter(network.weights.values())).device


def _shape(value: Any) -> str:
    return f" {tuple(value.shape)}" if isinstance(value, Tensor) else ""


def _cloned(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _rows(tensors: Tensors, count: int) -> Tensors:
    return {name: _repeated(tensor, count) for name, tensor in tensors.items()}


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.expand(count, *tensor.shape).clone()


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
