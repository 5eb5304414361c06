"""A traced function is the function, without its Python."""

import sys

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated import traced
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.recorded import Recording
from laser_fl.federated.setup import prepare
from laser_fl.federated.traced import CALLS, KEPT, Traced

pytestmark = pytest.mark.usefixtures("traced")


class Counted:
    calls = 0

    def __call__(self, weights, inputs):
        self.calls += 1
        return {name: w * inputs.sum() for name, w in weights.items()}, inputs.exp()


def arguments(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(size, generator=generator), "b": torch.randn(2, generator=generator)}, torch.randn(
        size, 3, generator=generator
    )


def test_gives_what_the_function_gives_and_calls_it_no_more():
    function = Counted()
    traced = Traced(function)
    for t in range(CALLS + 5):
        weights, inputs = arguments(4, t)
        products, powers = traced(weights, inputs)
        assert torch.equal(powers, inputs.exp())
        assert all(torch.equal(products[name], w * inputs.sum()) for name, w in weights.items())
    assert function.calls == CALLS


@pytest.mark.parametrize("sizes", [3, KEPT + 4])
def test_other_shapes_are_other_traces_of_which_the_last_are_kept(sizes):
    traced = Traced(Counted())
    for _ in range(CALLS + 1):
        for size in range(1, sizes + 1):
            weights, inputs = arguments(size)
            assert torch.equal(traced(weights, inputs)[1], inputs.exp())
    assert len(traced._traces) == min(sizes, KEPT)


def test_what_lies_otherwise_in_memory_is_another_trace():
    traced = Traced(lambda weights, inputs: inputs.reshape(-1) * weights["a"])
    weights = {"a": torch.tensor(2.0)}
    for _ in range(CALLS + 1):
        traced(weights, torch.ones(2, 3))
    inputs = torch.arange(6.0).view(3, 2).mT
    assert torch.equal(traced(weights, inputs), 2 * inputs.flatten())


CONSTANT = torch.tensor([2.0, 1.0, 0.0])


def as_complex(x):
    return torch.view_as_complex(x.reshape(3, 2))


STEPS = {
    "several results": lambda x: x.split(1)[1] + x.sort(dim=1, descending=True).values[0],
    "lists of tensors": lambda x: torch.cat([x, x[:, :1].expand(2, 3), x.new_zeros(1, 3)]),
    "a change in place": lambda x: x.clone().mul_(2).add_(x),
    "a constant": lambda x: x * torch.tensor([2.0, 3.0, 4.0]) + CONSTANT,
    "a constant that changes": lambda x: torch.tensor([2.0, 3.0, 4.0]).add_(x[0]),
    "a mask": lambda x: torch.where(x > 0, x, 0)[:, [2, 0]],
    "a tensor out of sight": lambda x: torch.from_numpy(x.numpy()) * 2,
    "an argument as it came": lambda x: x,
    "views of views": lambda x: x.mT.mT.view(2, 3) + x.t().t()[:, :2].sum(),
    "complex numbers": lambda x: (as_complex(x) * as_complex(x).conj()).real,
    "a value": lambda x: x / x.norm().item(),
    "a question": lambda x: x if x.sum() > 0 else -x,
    "a view that changes": lambda x: x.clone().t().t().mul_(2) + x,
    "a view that is turned in place": lambda x: x.clone().t().t_().t() @ x,
}


@pytest.mark.parametrize("step", STEPS)
def test_operations_of_any_kind_are_done_again(step):
    traced = Traced(lambda inputs: {"result": (STEPS[step](inputs),)})
    for t in range(CALLS + 3):
        inputs = torch.randn(2, 3, generator=torch.Generator().manual_seed(t))
        assert torch.equal(traced(inputs)["result"][0], STEPS[step](inputs))
    assert traced.repeats == (step not in ("a tensor out of sight", "a value", "a question"))


def test_views_that_were_made_before_are_not_made_again():
    again = Recording(lambda x: x.exp().mT.mT.view(3, 2).mT.sum(), (torch.ones(3, 2),))
    assert [step.operation.__name__ for step in again._steps] == ["exp.default", "transpose.int", "sum.default"]


def test_what_is_the_same_in_every_call_is_made_once():
    again = Recording(lambda x: torch.where(x > 0, x, 0) + torch.ones_like(x).neg(), (torch.ones(3),))
    assert [step.operation.__name__ for step in again._steps] == ["gt.Scalar", "where.self", "add.Tensor"]
    assert len(again._constants) == 2  # what leads to them is not kept
    assert again((torch.tensor([2.0, -2.0, 0.0]),)).tolist() == [1, -1, -1]


CHANGING = {
    "results, which are the caller's": lambda x: (x + 1, torch.zeros_like(x).view(3, 1)),
    "draws": lambda x: (x + torch.rand(3), torch.ones(3).bernoulli(0.5)),
    "what is changed in place": lambda x: (x + 1, torch.zeros(3).add_(x)),
}


@pytest.mark.parametrize("what", CHANGING)
def test_what_may_change_is_made_in_every_call(what):
    again, results = Recording(CHANGING[what], (torch.ones(3),)), []
    for function in (again, lambda args: CHANGING[what](*args)):
        torch.manual_seed(0)
        for _ in range(3):
            one, other = function((torch.full((3,), 2.0),))
            results.append((one.clone(), other.clone()))
            one.fill_(7)
            other.fill_(7)
    torch.testing.assert_close(results[:3], results[3:], rtol=0, atol=0)


def test_arguments_that_were_one_tensor_may_be_two_later():
    same = torch.ones(2)
    again = Recording(lambda a, b: a - 2 * b, (same, same))
    assert again((same, 3 * same)).tolist() == [-5, -5]


def test_a_tensor_is_let_go_after_its_last_reader():
    steps = Recording(lambda x: x.exp().neg().exp(), (torch.ones(3),))._steps
    assert [len(step.done) for step in steps] == [1, 1, 1]


RUNS = {
    "one shape": {"model": "linear"},
    "a short last batch": {"model": "mlp", "accumulation-steps": 2, "batch-size": 400},
    "clients that come and go": {"model": "linear", "fraction": 0.5, "dropout-rate": 0.3},
    "weights of their own": {"model": "linear", "downlink-power": 1e6},
    "several steps": {"model": "linear", "local-steps": 2},
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_the_run_without_traces_bit_for_bit(run, monkeypatch):
    weights, made = [], []
    monkeypatch.setattr(traced, "Recording", lambda *args: made.append(args) or Recording(*args))
    for calls in (CALLS, sys.maxsize):
        monkeypatch.setattr(traced, "CALLS", calls)
        engine = InProcess(prepare(parse({"clients": 4, "rounds": 8, "client-batching": "vmap"} | RUNS[run])))
        while not engine.server.finished:
            engine.advance()
        weights.append(engine.server.global_model.weights)
    assert made
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
