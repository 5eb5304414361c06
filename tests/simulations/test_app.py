"""The Flower app made for a run declares the run's keys and takes its code from the environment."""

import json
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from flwr.common.config import flatten_dict, get_fab_config

from laser_fl.config import parse
from simulations.engines import superlink
from simulations.engines.app import MODULE, Components, write_app
from simulations.engines.processes import environment, keep, stop

ROOT = Path(__file__).parents[2]
PACKAGES = ("laser_fl", "strategies", "clients", "simulations")


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # by Flower, of what it uses
class TestTheApp:
    def test_is_one_that_flower_accepts_without_a_warning(self, tmp_path):
        app = write_app(tmp_path / "app", parse({}).to_flat())
        assert load_and_validate(app / "pyproject.toml")[1] == []

    def test_has_no_code_but_a_module_that_names_the_two_sides(self, tmp_path):
        bundle = tmp_path / "app.fab"
        bundle.write_bytes(build_fab_from_disk(write_app(tmp_path / "app", parse({}).to_flat())))
        with zipfile.ZipFile(bundle) as files:
            assert set(files.namelist()) == {"pyproject.toml", "LICENSE", f"{MODULE}.py", ".info/CONTENT"}

    def test_declares_the_keys_of_the_run_and_no_others(self, tmp_path):
        values = parse({"rician-k-db": float("-inf"), "seed": 7}).to_flat() | {"density": 0.25, "note": 'a "b" \\ ü'}
        bundle = build_fab_from_disk(write_app(tmp_path / "app", values))
        assert flatten_dict(get_fab_config(bundle)["tool"]["flwr"]["app"]["config"]) == values

    def test_written_again_is_that_of_the_other_run(self, tmp_path):
        write_app(tmp_path / "app", {"seed": 1, "density": 0.5})
        app = write_app(tmp_path / "app", {"seed": 2})
        assert load_and_validate(app / "pyproject.toml")[0]["tool"]["flwr"]["app"]["config"] == {"seed": 2}

    def test_wants_the_flower_and_the_format_that_the_project_wants(self, tmp_path):
        made, project = (
            tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
            for folder in (write_app(tmp_path / "app", {}), ROOT)
        )
        for key in ("publisher", "fab-format-version", "flwr-version-target"):
            assert made[key] == project[key]

    @pytest.mark.parametrize(
        "components",
        [
            Components(),
            Components("simulations.benchmarks.flower_app:server", "simulations.benchmarks.flower_app:own"),
        ],
        ids=["training", "benchmark"],
    )
    def test_runs_the_two_sides(self, tmp_path, monkeypatch, components):
        monkeypatch.syspath_prepend(write_app(tmp_path / "app", {}, components))
        monkeypatch.delitem(sys.modules, MODULE, raising=False)
        made = import_module(MODULE)
        for side in ("server", "client"):
            module, name = getattr(components, side).split(":")
            assert getattr(made, side) is getattr(import_module(module), name)
        del sys.modules[MODULE]


class TestAProcessOfARun:
    """A process that works in the SuperLink's home."""

    @pytest.fixture
    def here(self, tmp_path, monkeypatch):
        """Return the folder where the user calls the command, with a module of the user's."""
        here = tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        return here

    def output(self, program, home):
        home.mkdir()
        command = [sys.executable, "-c", program]
        answer = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=True)
        return json.loads(answer.stdout)

    def test_finds_the_users_modules_and_these_packages(self, tmp_path, here):
        (here / "own_scheme.py").write_text("name = 'top-k'\n")
        program = "import importlib.util, json, own_scheme\nfound = [own_scheme.name]\n"
        program += f"found += [importlib.util.find_spec(name).origin for name in {PACKAGES}]\nprint(json.dumps(found))"
        assert self.output(program, tmp_path / "home") == [
            "top-k",
            *(import_module(name).__file__ for name in PACKAGES),
        ]

    @pytest.mark.parametrize("name", ["queue", "clients"])
    def test_is_not_misled_by_a_users_module_with_the_name_of_another(self, tmp_path, here, monkeypatch, name):
        monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(here))])
        (here / f"{name}.py").write_text("")
        program = f"import json, {name}\nprint(json.dumps({name}.__file__))"
        assert self.output(program, tmp_path / "home") == import_module(name).__file__

    def test_finds_modules_in_the_order_of_this_process(self, tmp_path, here, monkeypatch):
        for folder in (tmp_path / "first", tmp_path / "second"):
            folder.mkdir()
            (folder / "own_scheme.py").write_text(f"name = '{folder.name}'\n")
        monkeypatch.setattr(sys, "path", ["../first", *sys.path, str(tmp_path / "second")])
        program = "import json, own_scheme\nprint(json.dumps(own_scheme.name))"
        assert self.output(program, tmp_path / "home") == "first"

    def test_is_kept_in_its_home(self, tmp_path, here):
        program = "import os; print(os.getcwd())"
        process = keep([sys.executable, "-c", program], environment(tmp_path), tmp_path, subprocess.PIPE)
        with process.stdout as output:
            assert output.read().decode().strip() == str(tmp_path.resolve())
        stop(process)
        assert process.returncode == 0


@pytest.mark.thorough
@pytest.mark.simulation
def test_a_wheel_holds_all_files_of_the_packages(tmp_path):
    """Presets and the report's page, too; a wheel has what the engines need, and no tests."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        held = {name for name in files.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert held == {name for name in listed if (ROOT / name).exists()}


def test_paths_become_absolute_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "bert"):
        (tmp_path / name).mkdir()
    names = ["mlp", "gpt2", "torchvision:bert", "transformers:bert", "transformers:prajjwal1/bert-tiny"]
    assert [superlink._model(name) for name in names] == [*names[:3], f"transformers:{tmp_path / 'bert'}", names[4]]
    assert [superlink._absolute(name) for name in ("", "mnist", "bert")] == ["", "mnist", str(tmp_path / "bert")]
