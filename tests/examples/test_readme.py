"""The README is short, its links lead somewhere, and its programs do what is said of them."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from clients import respond
from tests.grids import FakeGrid

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
FENCED = re.compile(r"```.*?\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def program(heading):
    """Return the Python program under a heading."""
    return re.search(rf"## {heading}\n.*?```python\n(.*?)```", TEXT, re.DOTALL)[1]


def lines(code):
    return [line for line in code.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def after_the_first_program(tmp_path_factory):
    """Run the first program, two rounds long, and return its names, and what it printed and drew."""
    code, folder, printed = program("Your own model"), tmp_path_factory.mktemp("readme"), []
    assert "rounds=150" in code
    names = {"print": lambda *values: printed.extend(map(str, values))}
    code = code.replace("rounds=150", "rounds=2").replace('"accuracy.png"', f'r"{folder / "accuracy.png"}"')
    exec(code, names)
    return names, "\n".join(printed), folder


def test_the_readme_has_at_most_900_words():
    words = [word for word in FENCED.sub("", TEXT).split() if re.search(r"\w", word)]
    assert len(words) <= 900


def test_every_link_within_the_repository_leads_to_a_file():
    places = [place for place in LINK.findall(TEXT) if "://" not in place]
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize(("heading", "most"), [("Your own model", 12), ("Your own loop", 8), ("Flower", 6)])
def test_a_program_is_as_short_as_it_should_be(heading, most):
    assert len(lines(program(heading))) <= most


def test_a_network_and_a_data_set_of_ones_own_are_compared(after_the_first_program):
    _, printed, folder = after_the_first_program
    assert all(strategy in printed for strategy in ("sgd", "z-sgd", "laser"))
    assert (folder / "accuracy.png").stat().st_size > 0


def test_a_loop_of_ones_own_goes_on_from_there(after_the_first_program, capsys):
    names, *_ = after_the_first_program
    exec(program("Your own loop"), dict(names, print=print))
    snr, power = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert snr < 0 < power <= 1.00001


def test_the_strategy_trains_in_a_server_app(after_the_first_program):
    names, *_ = after_the_first_program

    def gradient(weights, buffers, client):
        return {name: weight - 1 for name, weight in weights.items()}, torch.tensor(1.0), {}

    grid = FakeGrid(2, {}, lambda message, context: respond(message, context, gradient))
    before = {name: weight.clone() for name, weight in names["model"].state_dict().items()}
    code = program("Flower")
    assert "num_rounds=60" in code
    exec(code.replace("num_rounds=60", "num_rounds=2"), dict(names, grid=grid))
    assert all((names["model"].state_dict()[name] != weight).any() for name, weight in before.items())


@pytest.mark.parametrize("train", ["a-and-b", "b"])
def test_adapters_are_trained_alone(train):
    example = runpy.run_path(str(ROOT / "examples" / "lora.py"))
    assert 0 <= example["fine_tune"](train, rounds=2, clients=2) <= 1
