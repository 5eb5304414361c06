"""The numbers of the texts are those of the files under docs/results."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = "strategy,reason,task,model,seed,clients,rounds,power,ema_test_accuracy,uplink_floats_per_round\n"


@pytest.fixture(scope="module")
def numbers():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("write_numbers", ROOT / ".ci" / "write_numbers.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def table(folder, numbers, *rows):
    (folder / "comparison.csv").write_text(HEAD + "\n".join(rows) + "\n")
    return numbers.table(folder).splitlines()[2:], folder


def test_all_texts_are_as_the_files_say(numbers):
    numbers.main(check=True)


def test_every_strategy_of_the_package_has_a_sentence_in_the_glossary(numbers):
    from laser_fl.registry import SCHEMES

    assert set(numbers.sentences()) == set(SCHEMES)


def test_a_number_typed_by_hand_is_found(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "ROOT", tmp_path)
    monkeypatch.setattr(numbers, "TEXTS", ("README.md",))
    monkeypatch.setattr(numbers, "WRITERS", {"one": lambda: "91.2 %"})
    text = "before\n<!-- numbers: one -->\n99.9 %\n<!-- end -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(SystemExit, match=r"README.md: its numbers are not those of docs/results"):
        numbers.main(check=True)
    numbers.main(check=False)
    assert (tmp_path / "README.md").read_text() == text.replace("99.9", "91.2")
    numbers.main(check=True)


def test_a_place_with_an_unknown_name_is_refused(numbers):
    with pytest.raises(SystemExit, match="must be one of compare"):
        numbers.written("<!-- numbers: nothing -->\n\n<!-- end -->")


def test_a_strategy_has_its_accuracy_its_values_and_its_bytes(numbers, tmp_path):
    (line,), _ = table(tmp_path, numbers, "laser,,t,m,0,16,60,1.0,0.8923,1572.0")
    assert line.endswith("| 89.2 % | 1,572 | 6.3 kB |")
    assert numbers.sentences()["laser"] in line


def test_several_seeds_become_their_mean_and_spread(numbers, tmp_path):
    rows = [f"laser,,t,m,{seed},16,60,1.0,{score},1572" for seed, score in enumerate((0.88, 0.9, 0.92))]
    (line,), _ = table(tmp_path, numbers, *rows)
    assert "| 90.0 ± 2.0 % |" in line


def test_a_strategy_that_diverged_says_so_with_its_round(numbers, tmp_path):
    reason = "round 34: the test_loss is nan: the model has diverged"
    rows = (f"z-sgd,{reason},t,m,0,16,34,1.0,,203530", "laser,,t,m,0,16,60,1.0,0.9,1572")
    lines, folder = table(tmp_path, numbers, *rows)
    assert "| diverged in round 34 |" in lines[0]
    assert numbers.setting(folder).endswith("and reaches 90.0 %; `z-sgd` diverged in round 34.")
