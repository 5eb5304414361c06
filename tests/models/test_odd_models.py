"""Models with habits of their own: carried through a run, or refused in one line before anything starts."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import laser_fl as lf
from laser_fl.config import parse
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.models.libraries import torchvision

INPUTS, LABELS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
RUN = {"clients": 3, "batch_size": 4, "rounds": 3, "power": 100.0}


class Small(nn.Module):
    """A class of anybody's, all of whose layers are known to batch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu())


class Branching(Small):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class Normed(Small):
    """A running mean that is set anew, not changed in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(dim=0).detach()
        return super().forward(x - self.mean)


def train(model, **more):
    return lf.train(model, (INPUTS, LABELS), (INPUTS, LABELS), **(RUN | more))


def small(kind=Small):
    torch.manual_seed(0)
    return kind()


def at_once(model, **keys):
    """Return the number of clients that a trainer computes in one call."""
    task = Task((INPUTS, LABELS), (INPUTS, LABELS), lambda: model, **keys)
    config = parse({"task": "own", "model": "auto", "clients": 3, "batch-size": 4})
    return LocalTrainer(task, task.network(config), config, range(3))._at_once


class TestBatching:
    def test_a_small_class_of_known_layers_is_batched_and_gives_the_same(self):
        assert at_once(small()) > 1
        batched, alone = (train(small(), client_batching=way).model.state_dict() for way in ("auto", "loop"))
        assert all(torch.allclose(batched[name], alone[name], atol=1e-5) for name in batched)

    @pytest.mark.parametrize(
        "loss",
        [lambda o, t: F.cross_entropy(o[t != 2], t[t != 2]), lambda o, t: F.cross_entropy(o, t) / float(t.sum())],
    )
    def test_what_cannot_be_batched_goes_one_by_one(self, loss):
        assert at_once(small(Branching)) == 1
        assert at_once(small(), loss=loss) == 1
        linear = nn.Sequential(nn.Linear(4, 3))
        assert train(linear, loss=loss, metrics="accuracy").history.equals(
            train(linear, loss=loss, metrics="accuracy", client_batching="loop").history
        )

    def test_a_warning_says_so_once_where_vmap_was_asked_for(self):
        with pytest.warns(UserWarning, match="clients go one by one, since vmap cannot batch the model") as warned:
            train(small(Branching), client_batching="vmap")
        assert len(warned) == 1

    def test_inputs_of_several_tensors_are_batched(self, traced):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 3)

            def forward(self, a, b):
                return self.layer(a + b)

        data = (INPUTS, INPUTS), LABELS
        options = RUN | {"rounds": 6}
        batched, alone = (
            lf.train(small(Two), data, data, client_batching=way, **options).model.state_dict()
            for way in ("auto", "loop")
        )
        assert all(torch.allclose(batched[name], alone[name], atol=1e-5) for name in batched)


class TestBuffers:
    def test_that_are_set_anew_are_carried(self):
        means = train(small(Normed)).model.mean
        assert means.abs().max() > 0.01

    def test_counts_of_the_callers_module_stay(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        assert train(model).model[1].num_batches_tracked == 0
        assert model[1].num_batches_tracked == 0


class TestCallsThatDraw:
    def test_repeat_with_the_seed(self):
        class Dropping(Small):
            def forward(self, x):
                return self.b(F.dropout(self.a(x).relu(), 0.5, self.training))

        first, second = (train(small(Dropping)).history for _ in range(2))
        assert first.equals(second)


def locked():
    model = small()
    model.lock = threading.Lock()
    return model


REFUSED = {
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "model: its weights must have shapes, got lazy ones"),
    "bfloat16": (lambda: small().bfloat16(), "model: its weights must be float32 or float64.* got torch.bfloat16"),
    "complex": (lambda: nn.Linear(4, 3, dtype=torch.complex64), "model: its weights must be float32 or float64"),
    "momentum": (
        lambda: nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)),
        "model: a batch norm must have a momentum, got None for '0'",
    ),
    "nothing trained": (lambda: small().requires_grad_(False), "model: must have weights to train, got none"),
    "a lock": (locked, "model: must be a module that can be copied"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line(case):
    build, line = REFUSED[case]
    with pytest.raises(ConfigError, match=line) as refused:
        train(build())
    assert "\n" not in str(refused.value)


def test_patterns_choose_what_is_trained_and_what_decays():
    task = Task((INPUTS, LABELS), (INPUTS, LABELS), small, trained=("b.*",), undecayed=("*bias",))
    network = task.network(parse({"task": "own", "model": "auto"}))
    assert (list(network.weights), network.undecayed) == (["b.weight", "b.bias"], ("b.bias",))
    with pytest.raises(ConfigError, match=r"must have a weight whose name fits 'c\.\*', got none"):
        Task((INPUTS, LABELS), (INPUTS, LABELS), small, trained=("c.*",)).network(
            parse({"task": "own", "model": "auto"})
        )


def test_models_of_libraries_are_built_for_the_tasks_classes():
    assert torchvision("mobilenet_v3_small")(classes=7).classifier[-1].out_features == 7
    with pytest.raises(ConfigError, match="torchvision must have a model of this name, got 'resnet81', did you mean"):
        torchvision("resnet81")
