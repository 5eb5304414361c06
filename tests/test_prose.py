"""The repository keeps its words: one word, one meaning, and the field's where it has one (CONTRIBUTING.md)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text()
    for package in ("laser_fl", "strategies", "clients", "simulations")
    for path in sorted((ROOT / package).rglob("*.py"))
}
INSTEAD = {
    "told": "message, sync, metadata, reported",
    "said": "reply, reported, client update",
    "heard": "received",
    "lately": "recent, tracker",
    "speakers?|speaks|speaking": "transmitters, transmits",
    "silent": "in outage, nothing sent",
    "turnout": "participation",
    "receipts": "acknowledgements",
    "Promises": "Traits",
    "Kept|leave_|restore_": "Approximation, subtract_from_, add_to_",
    "Uplink|Reception": "ClientUpdate, AggregationResult",
    "Crew|Held": "LocalTrainer, ClientState",
    "News": "ReplicaUpdate",
    "Tally|Board|Slot": "RoundAccounting, SharedMemory, TensorHandle",
}
OPENINGS = re.compile(r"(What|Who|Whose|Whom|Whether|Those|Where|How|As|Of)\b")


@pytest.mark.parametrize("word", INSTEAD)
def test_a_word_with_several_meanings_is_not_used(word):
    found = [f"{path}: {m[0]}" for path, text in SOURCES.items() for m in re.finditer(rf"\b({word})\b", text)]
    assert found == [], f"write {INSTEAD[word]}"


def test_docstrings_begin_with_a_subject_or_an_imperative():
    openings = []
    for path, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            if documented and OPENINGS.match(docstring := ast.get_docstring(node) or ""):
                openings.append(f"{path}: {docstring.splitlines()[0]}")
    assert openings == []


def test_few_modules_lie_directly_in_the_core():
    assert len(list((ROOT / "laser_fl").glob("*.py"))) <= 12
