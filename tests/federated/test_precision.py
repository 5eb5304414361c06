"""A GPU's arithmetic and the choice of its kernels follow the config. The settings can be read without a GPU."""

import os

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated.differentiation import autocast, products, set_kernels
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import prepare

GPU, CPU = torch.device("cuda"), torch.device("cpu")
KINDS = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    """Put the process's settings back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = [kind.fp32_precision for kind in KINDS]
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    yield
    torch.use_deterministic_algorithms(False)
    for kind, precision in zip(KINDS, before, strict=True):
        kind.fp32_precision = precision


def settings():
    cudnn = torch.backends.cudnn
    return [kind.fp32_precision for kind in KINDS], cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "auto"])
def test_products_are_in_tf32_only_for_that_precision_and_only_in_passes_of_the_model(precision):
    config = parse({"precision": precision})
    set_kernels(config, GPU)
    assert settings()[0] == ["ieee"] * 3
    with products(config, GPU):
        assert settings()[0] == ["tf32" if precision == "tf32" else "ieee"] * 3
    assert settings()[0] == ["ieee"] * 3


@pytest.mark.parametrize(
    ("precision", "on_gpu", "on_cpu"),
    [("float32", False, False), ("tf32", False, False), ("bfloat16", True, True), ("auto", True, False)],
)
def test_auto_is_bfloat16_on_a_gpu(precision, on_gpu, on_cpu, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda *args, enabled: asked.append(enabled))
    for device in (GPU, CPU):
        autocast(parse({"precision": precision}), device)
    assert asked == [on_gpu, on_cpu]


def test_each_run_on_a_gpu_sets_its_own_choice_of_kernels():
    for deterministic in (True, False, True):
        set_kernels(parse({"deterministic": deterministic}), GPU)
        assert settings()[1:] == (not deterministic, deterministic)
        assert torch.backends.cudnn.deterministic == deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("keys", [{"precision": "tf32"}, {"deterministic": True}])
def test_a_run_on_a_cpu_changes_no_settings(keys):
    before = settings()
    config = parse(keys)
    set_kernels(config, CPU)
    with products(config, CPU):
        assert settings() == before


def weights_after(keys, rounds=2):
    engine = InProcess(prepare(parse({"clients": 3, "rounds": rounds, "seed": 5, "power": 100} | keys)))
    while not engine.server.finished:
        engine.advance()
    return engine.server.global_model.weights


@pytest.mark.parametrize(
    "strategy",
    ["z-sgd", "signum", "random-k", "sketch", "a-dsgd", "d-dsgd", "laser", "laser-adaptive"],
)
def test_every_strategy_runs_with_deterministic_kernels_and_the_same_bits(strategy):
    """The rules that refuse operations hold on the CPU, too, where all are deterministic anyway."""
    plain = weights_after({"strategy": strategy})
    set_kernels(parse({"deterministic": True}), GPU)
    strict = weights_after({"strategy": strategy, "deterministic": True})
    assert all(torch.equal(plain[name], strict[name]) for name in plain)
