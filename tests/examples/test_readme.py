"""The README's first program, and the example of adapters, do what is said of them."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_network_and_a_data_set_are_compared_in_fifteen_lines(capsys):
    code = re.search(r"## In Python.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert "rounds=100" in code
    exec(code.replace("rounds=100", "rounds=2"), {})
    printed = capsys.readouterr().out
    assert all(strategy in printed for strategy in ("sgd", "z-sgd", "laser"))


@pytest.mark.parametrize("train", ["a-and-b", "b"])
def test_adapters_are_trained_alone(train):
    example = runpy.run_path(str(ROOT / "examples" / "lora.py"))
    assert 0 <= example["fine_tune"](train, rounds=2, clients=2) <= 1
