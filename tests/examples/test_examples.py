"""The examples of parts of one's own give the results that they announce, by themselves and on every engine."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.registry import SCHEMES
from simulations.cli import app
from tests.parts import visiting

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN = sorted(EXAMPLES.glob("own_*.py"))
NUMBER = re.compile(r"-?\d+\.\d+")
ALL_OWN = {
    "strategy": "own_scheme:TopK",
    "keep": 0.05,
    "channel": "own_channel:Shadowed",
    "outage": 0.3,
    "task": "own_task:load",
    "clients": 4,
    "rounds": 3,
    "client-batching": "loop",
}


@pytest.fixture
def examples(monkeypatch):
    """Stand in the folder of the examples; their parts are forgotten afterwards."""
    monkeypatch.chdir(EXAMPLES)
    with visiting(EXAMPLES):
        yield


def keys(values):
    return [argument for key, value in values.items() for argument in ("-c", f"{key}={value}")]


def announced(path):
    """Return the commands in an example's docstring, each with the lines that it prints."""
    opening = path.read_text().split('"""')[1]
    commands = (block.splitlines() for block in opening.split("\n$ ")[1:])
    return {command: lines for command, *lines in commands}


def run(values, out, engine="in-process"):
    """Run a config by the script, as a user does, and return its summary."""
    script = Path(sys.executable).with_name("laser-fl")
    nodes = [] if engine == "in-process" else ["--nodes", "2"]
    command = [script, "run", "-q", *keys(values), "--engine", engine, *nodes, "--out", out]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_an_example_is_short_and_announces_what_it_prints(path):
    assert len(path.read_text().splitlines()) < 60
    assert announced(path)[f"python {path.name}"]


@pytest.mark.parametrize(
    "path",  # a torch optimizer imports PyTorch's compiler, which takes long
    [pytest.param(path, marks=pytest.mark.thorough if path.stem == "own_loop" else ()) for path in OWN],
    ids=lambda path: path.stem,
)
def test_an_example_prints_what_it_announces(examples, capsys, path):
    runpy.run_path(str(path), run_name="__main__")
    printed, expected = capsys.readouterr().out, "\n".join(announced(path)[f"python {path.name}"]) + "\n"
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05)


@pytest.mark.parametrize(
    "values",
    [
        {"strategy": "own_scheme:TopK", "keep": 0.05},
        {"channel": "own_channel:Shadowed", "outage": 0.3},
        {"task": "own_task:load"},
        {"callbacks": "own_callback:Target", "target-accuracy": 0.8},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_part_is_named_by_its_place_and_its_options_are_keys(examples, tmp_path, values):
    short = {"model": "linear"} if "task" not in values else {}
    given = values | short | {"clients": 4, "rounds": 2}
    result = CliRunner().invoke(app, ["run", "-q", *keys(given), "--out", str(tmp_path / "run")])
    assert (result.exit_code, result.stderr) == (0, "")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {key: config[key] for key in values} == values


def test_a_scheme_has_two_names_and_one_class(examples):
    by_place, by_name = (parse({"strategy": name, "keep": 0.2}) for name in ("own_scheme:TopK", "top-k"))
    built = [SCHEMES.build(config.strategy, config) for config in (by_place, by_name)]
    assert built[0] == built[1]
    assert SCHEMES.choice(built[0]) == {"strategy": "top-k", "keep": 0.2}


def test_own_parts_can_be_compared(examples, tmp_path, in_this_process):
    task = keys({"task": "own_task:load", "clients": 4, "rounds": 2})
    arguments = ["compare", "-q", *task, "--strategies", "own_scheme:TopK,laser", "--out", str(tmp_path / "all")]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "own_scheme:TopK" in result.stdout


@pytest.mark.thorough
@pytest.mark.process
def test_own_parts_can_be_compared_in_processes_side_by_side(tmp_path):
    task = keys({"task": "own_task:load", "clients": 4, "rounds": 2})
    script = Path(sys.executable).with_name("laser-fl")
    command = [script, "compare", "-q", *task, "--strategies", "own_scheme:TopK,laser", "--out", tmp_path / "all"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "in-process"
    return folder, run(ALL_OWN, folder)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("flower", marks=pytest.mark.simulation),
        pytest.param("deployment", marks=pytest.mark.deployment),
    ],
)
def test_own_parts_together_give_the_same_run_on_every_engine(tmp_path, in_process, engine):
    folder, expected = in_process
    summary = run(ALL_OWN, tmp_path / engine, engine)
    assert summary["test_loss"] == expected["test_loss"]
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / engine / file).read_bytes() == (folder / file).read_bytes()
