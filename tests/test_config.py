"""Every wrong value is refused before anything starts, in one line that names it."""

import math
import runpy
import tomllib
from pathlib import Path

import pytest

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError
from simulations import presets

WRONG = [
    ({"powr": 1}, "powr: unknown key, did you mean power?"),
    (
        {"strategy": "lazer"},
        "strategy: must be one of sgd, z-sgd, signum, random-k, sketch, a-dsgd, d-dsgd, laser, laser-adaptive, "
        "got 'lazer', did you mean laser?",
    ),
    (
        {"task": "imagenet"},
        "task: must be one of mnist-5k, mnist, fashion-mnist, cifar10, cifar100, wikitext-2, wikitext-2-raw, "
        "wikitext-103, wikitext-103-raw, pydoc, text, images, table, huggingface, "
        "got 'imagenet', did you mean images?",
    ),
    (
        {"model": "resnet18"},
        "model: must be one of mlp, linear for task mnist-5k, or torchvision:NAME, timm:NAME, transformers:PATH or "
        "module:function, got 'resnet18'",
    ),
    (
        {"model": "mpl"},
        "model: must be one of mlp, linear for task mnist-5k, or torchvision:NAME, timm:NAME, transformers:PATH or "
        "module:function, got 'mpl', did you mean mlp?",
    ),
    ({"channel": "tin-can"}, "channel: must be one of awgn, fading, blind, got 'tin-can'"),
    (
        {"power-policy": "up"},
        "power-policy: must be one of constant, linear-up, linear-down, steps-up, steps-down, got 'up'",
    ),
    ({"power": "-1"}, "power: must be greater than 0 (inf: no noise), got '-1'"),
    ({"power": 0}, "power: must be greater than 0 (inf: no noise), got 0"),
    ({"power": "nan"}, "power: must be greater than 0 (inf: no noise), got 'nan'"),
    ({"power": "much"}, "power: must be a valid number, got 'much'"),
    ({"rank": 0}, "rank: must be greater than 0 for strategy laser, got 0"),
    ({"rank": -1}, "rank: must be greater than or equal to 0, got -1"),
    ({"receiver": "ears"}, "receiver: must be one of auto, plain, wiener, paced, got 'ears'"),
    ({"rank": "1.5"}, "rank: must be a valid integer, got '1.5'"),
    ({"rank": True}, "rank: must be a number or a text, got True"),
    ({"factor-exchange": "both"}, "factor-exchange: must be one of alternating, two-phase, one-shot, got 'both'"),
    ({"phase-split": 1}, "phase-split: must be less than 1, got 1"),
    ({"compression-factor": -0.1}, "compression-factor: must be greater than or equal to 0, got -0.1"),
    (
        {"strategy": "sketch", "compression-factor": 0},
        "compression-factor: must be greater than 0 for strategy sketch, got 0",
    ),
    ({"compression-factor": 1.5}, "compression-factor: must be less than or equal to 1, got 1.5"),
    ({"recovery": "ears"}, "recovery: must be one of lmmse, amp, got 'ears'"),
    ({"clients": 0}, "clients: must be greater than or equal to 1, got 0"),
    ({"noise-variance": -1}, "noise-variance: must be greater than or equal to 0, got -1"),
    ({"noise-variance": math.inf}, "noise-variance: must be a finite number, got inf"),
    ({"batch-size": 0}, "batch-size: must be greater than or equal to 1, got 0"),
    ({"accumulation-steps": 0}, "accumulation-steps: must be greater than or equal to 1, got 0"),
    ({"local-steps": 0}, "local-steps: must be greater than or equal to 1, got 0"),
    ({"local-learning-rate": -0.1}, "local-learning-rate: must be greater than or equal to 0, got -0.1"),
    ({"epochs": -1}, "epochs: must be greater than or equal to 0, got -1"),
    ({"epochs": 0, "rounds": 0}, "rounds: must be greater than 0 where epochs is 0, got 0"),
    ({"optimizer": "adam"}, "optimizer: must be 'sgd' or 'adamw', got 'adam', did you mean adamw?"),
    ({"recovery": "lmse"}, "recovery: must be one of lmmse, amp, got 'lmse', did you mean lmmse?"),
    ({"optimizer": "lbfgs"}, "optimizer: must be 'sgd' or 'adamw', got 'lbfgs'"),
    ({"learning-rate": 0}, "learning-rate: must be greater than 0, got 0"),
    ({"momentum": 1}, "momentum: must be less than 1, got 1"),
    ({"weight-decay": -1e-4}, "weight-decay: must be greater than or equal to 0, got -0.0001"),
    ({"lr-schedule": "warm"}, "lr-schedule: must be 'constant', 'cosine', 'one-cycle' or 'step', got 'warm'"),
    ({"seed": -1}, "seed: must be greater than or equal to 0, got -1"),
    ({"evaluate-every": -1}, "evaluate-every: must be greater than or equal to 0, got -1"),
    ({"ema-decay": 1}, "ema-decay: must be less than 1, got 1"),
    ({"device": "tpu"}, "device: must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    ({"threads": -1}, "threads: must be greater than or equal to 0, got -1"),
    ({"power": 1e76}, "power: must be between 1e-30 and 1e+30, or inf, got 1e+76"),
    ({"power": 1e-31}, "power: must be between 1e-30 and 1e+30, or inf, got 1e-31"),
    ({"noise-variance": 1e308}, f"noise-variance: must be less than or equal to {10**30}, got 1e+308"),
    ({"batch-size": 10**20}, f"batch-size: must be less than {2**31}, got {10**20}"),
    ({"seed": 10**26}, f"seed: must be less than {2**63}, got {10**26}"),
    ({"threads": 100000}, "threads: must be less than or equal to 1024, got 100000"),
    ({"device": "cuda:" + 20 * "9"}, f"device: must be auto, cpu, cuda or cuda:N, got 'cuda:{20 * '9'}'"),
    ({"csi-error-variance": -0.1}, "csi-error-variance: must be greater than or equal to 0, got -0.1"),
    ({"gain-threshold": -1}, "gain-threshold: must be greater than or equal to 0, got -1"),
    ({"rician-k-db": "nan"}, "rician-k-db: must be a number, -inf or inf, got 'nan'"),
    ({"path-loss-exponent": 11}, "path-loss-exponent: must be less than or equal to 10, got 11"),
    ({"cell-radius": 0.5}, "cell-radius: must be greater than or equal to 1, got 0.5"),
    ({"antennas": 0}, "antennas: must be greater than or equal to 1, got 0"),
    ({"downlink": "both"}, "downlink: must be 'model', 'update' or 'compressed', got 'both'"),
    ({"downlink-power": 0}, "downlink-power: must be greater than 0 (inf: no noise), got 0"),
    ({"fraction": 0}, "fraction: must be greater than 0, got 0"),
    ({"fraction": 1.1}, "fraction: must be less than or equal to 1, got 1.1"),
    ({"dropout-rate": 1}, "dropout-rate: must be less than 1, got 1"),
    ({"channel-uses": -1}, "channel-uses: must be greater than or equal to 0, got -1"),
    ({"bandwidth": 0}, "bandwidth: must be greater than 0, got 0"),
    (
        {"precision": "bfloat16", "client-batching": "vmap"},
        "client-batching: must be loop, graph or auto for precision bfloat16, got 'vmap'",
    ),
    (
        {"partition": "alphabet"},
        "partition: must be one of iid, dirichlet, balanced-dirichlet, shards, by-column, got 'alphabet'",
    ),
    ({"tokens": "words"}, "tokens: must be 'bytes' or 'gpt2', got 'words'"),
    ({"width": 0}, "width: must be greater than or equal to 1, got 0"),
    ({"client-batching": "all"}, "client-batching: must be 'auto', 'vmap', 'loop' or 'graph', got 'all'"),
    ({"deterministic": "yes"}, "deterministic: must be true or false, got 'yes'"),
    ({"rng-device": "cuda"}, "rng-device: must be 'auto' or 'cpu', got 'cuda'"),
    ({"out-dir": 3}, "out-dir: must be a valid string, got 3"),
]


@pytest.mark.parametrize(("values", "line"), WRONG, ids=[next(iter(v)) + str(i) for i, (v, _) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_in_one_line(values, line):
    with pytest.raises(ConfigError) as refusal:
        parse(values)
    assert str(refusal.value) == line


def test_every_wrong_value_gets_its_own_line():
    with pytest.raises(ConfigError) as refusal:
        parse({"power": -1, "rank": -1})
    assert [line.partition(":")[0] for line in str(refusal.value).splitlines()] == ["rank", "power"]


def test_strings_from_the_command_line_are_converted():
    config = parse({"power": "inf", "rank": "4", "weight-decay": "1e-4"})
    assert (config.power, config.rank, config.weight_decay) == (math.inf, 4, 1e-4)


def test_a_config_survives_being_written_and_read():
    config = parse({"power": 0.1, "epochs": 3, "strategy": "z-sgd"})
    assert parse(config.to_flat()) == config


def test_rounds_win_over_epochs():
    assert parse({"epochs": 50}).counts_epochs
    assert not parse({"epochs": 50, "rounds": 3}).counts_epochs


def test_the_flower_app_declares_every_key_with_its_default():
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert pyproject["tool"]["flwr"]["app"]["config"] == RunConfig().to_flat()


def test_what_the_parts_declare_is_written_down():
    """It is read without importing the parts: as keys of the run config, as typed arguments, and for Flower."""
    runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "generate.py"))["main"](check=True)


def test_a_value_must_fit_the_part_that_is_chosen_not_others():
    assert parse({"strategy": "laser-adaptive", "rank": 0}).rank == 0
    assert parse({"strategy": "z-sgd", "rank": 0}).rank == 0
    with pytest.raises(ConfigError, match="compression-factor: must be greater than 0 for strategy a-dsgd, got 0"):
        parse({"strategy": "a-dsgd", "compression-factor": 0})


def test_a_task_brings_its_own_model():
    assert [parse({"task": task}).model for task in ("mnist", "cifar10", "pydoc")] == ["mlp", "resnet18", "gpt2"]
    assert parse({"task": "cifar100", "model": "auto"}).model == "resnet18"


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_a_valid_config(name):
    parse(presets.load(name))


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=f"preset: must be one of {', '.join(presets.names())}, got 'moon'"):
        presets.load("moon")
