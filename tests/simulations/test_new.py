"""`laser-fl new` writes an app that runs as it is, everywhere; or nothing."""

import ast
import json
import re
import runpy
import subprocess
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from typer.testing import CliRunner

from laser_fl.config import RunConfig
from simulations.cli import app as cli
from simulations.cli import new
from simulations.engines.deployment import Deployment
from simulations.engines.flower import simulation
from simulations.engines.processes import environment, tool
from simulations.engines.superlink import CONNECTION
from simulations.private import private_folder
from tests.parts import visiting

SHORT = {"task": "task:load", "rounds": 3, "clients": 4}
TABLES = ("metrics.csv", "ledger.csv", "weights.safetensors")


def call(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def everything_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.fixture
def app(tmp_path):
    """Return the folder of a new app."""
    assert call("new", tmp_path / "my_app").exit_code == 0
    return tmp_path / "my_app"


@pytest.fixture
def inside(app, monkeypatch):
    """Stand in the folder of a new app; its modules are forgotten afterwards."""
    monkeypatch.chdir(app)
    with visiting(app):
        yield app


def settings_in(app):
    return tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


class TestTheFiles:
    def test_are_those_of_the_template_and_the_only_ones(self, app):
        template = Path(str(new.TEMPLATE))
        assert {path.name for path in app.iterdir()} == set(new.FILES)
        assert {path.name for path in template.iterdir()} - {"__pycache__"} == set(new.FILES)

    def test_have_the_apps_name_where_the_template_has_its_own(self, app):
        assert tomllib.loads((app / "pyproject.toml").read_text())["project"]["name"] == "my-app"
        for path in app.iterdir():
            assert new.PLACEHOLDER not in path.read_text()
        assert (app / "README.md").read_text().startswith("# my-app\n")

    @pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # by Flower, of what it uses
    def test_are_an_app_that_flower_accepts_without_a_warning_and_ships_without_results(self, app):
        (app / "runs").mkdir()
        (app / "runs" / "config.json").write_text("{}")
        assert load_and_validate(app / "pyproject.toml")[1] == []
        with zipfile.ZipFile(BytesIO(build_fab_from_disk(app))) as bundle:
            shipped = {"task.py", "server_app.py", "client_app.py", "pyproject.toml", "README.md", ".info/CONTENT"}
            assert set(bundle.namelist()) == shipped

    def test_name_in_the_readme_the_commands_that_are_printed(self, tmp_path):
        printed = call("new", tmp_path / "app").stdout.splitlines()
        *files, heading, _, first, second, third = printed
        assert files == [str(tmp_path / "app" / name) for name in new.FILES]
        assert (heading, [first, second, third]) == ("next:", [f"  {command}" for command in new.COMMANDS])
        readme = (tmp_path / "app" / "README.md").read_text()
        assert all(f"\n{command}" in readme for command in new.COMMANDS)

    def test_declare_keys_of_the_run_config_with_their_defaults(self, app):
        config, defaults = settings_in(app), RunConfig().to_flat()
        assert config.pop("task") == "task:load"
        assert config == {key: defaults[key] for key in config}

    def test_hold_model_data_and_a_seeded_comparison_in_sixteen_lines(self, app):
        module = ast.parse((app / "task.py").read_text())
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        (main,) = (node for node in module.body if isinstance(node, ast.If))
        assert sum(map(lines_of, classes)) + sum(map(lines_of, main.body)) == 16


def lines_of(node):
    """Count the lines of a statement and those in it, docstrings aside."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return 0
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return 1 + sum(map(lines_of, node.body))
    return node.end_lineno - node.lineno + 1


class TestTheFolder:
    @pytest.mark.parametrize(
        ("folder", "name"),
        [("app", "app"), ("My_App", "my-app"), ("a.b--c_d", "a-b-c-d"), ("X9", "x9"), ("deep/er/app", "app")],
    )
    def test_gives_the_app_its_name(self, tmp_path, folder, name):
        assert call("new", tmp_path / folder).exit_code == 0
        assert tomllib.loads((tmp_path / folder / "pyproject.toml").read_text())["project"]["name"] == name

    @pytest.mark.parametrize("folder", ["9lives", "app-", "_app", "ünique", "two words", "a" * 33, "..."])
    def test_whose_name_can_be_no_apps_is_refused(self, tmp_path, folder):
        result = call("new", tmp_path / folder)
        rule = "a letter first, then letters, digits, '-', '_' and '.', a letter or digit last, at most 32"
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"DIR: its name must be an app's ({rule}), got {folder!r}\n"
        assert everything_in(tmp_path) == []

    def test_may_be_the_current_one_and_empty(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert call("new", ".").exit_code == 0
        assert tomllib.loads(Path("pyproject.toml").read_text())["project"]["name"] == "here"

    def test_with_a_file_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "app").mkdir()
        (tmp_path / "app" / "task.py").write_text("mine")
        result = call("new", tmp_path / "app")
        line = f"DIR: must be a new or empty folder, got {str(tmp_path / 'app')!r}\n"
        assert (result.exit_code, result.stderr) == (2, line)
        assert everything_in(tmp_path / "app") == [Path("task.py")]
        assert (tmp_path / "app" / "task.py").read_text() == "mine"

    def test_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "app").write_text("mine")
        result = call("new", tmp_path / "app")
        assert result.exit_code == 2
        assert result.stderr == f"DIR: must be a folder (Not a directory), got {str(tmp_path / 'app')!r}\n"

    @pytest.mark.parametrize("existing", [False, True])
    def test_is_as_before_where_not_all_files_can_be_written(self, tmp_path, monkeypatch, existing):
        if existing:
            (tmp_path / "deep" / "app").mkdir(parents=True)
        before, opened = everything_in(tmp_path), Path.open

        def full(path, *arguments, **options):
            if path.name == "pyproject.toml" and path.is_relative_to(tmp_path):
                raise OSError(28, "No space left on device", str(path))
            return opened(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", full)
        result = call("new", tmp_path / "deep" / "app")
        monkeypatch.undo()
        place = tmp_path / "deep" / "app" / "pyproject.toml"
        assert (result.exit_code, result.stderr) == (1, f"{place}: No space left on device\n")
        assert everything_in(tmp_path) == before


def keys(values):
    return [argument for key, value in values.items() for argument in ("-c", f"{key}={value}")]


class TestTheApp:
    def test_runs_in_its_folder_as_it_is(self, inside, tmp_path):
        result = call("run", "-q", *keys(SHORT), "--out", tmp_path / "run")
        assert (result.exit_code, result.stderr) == (0, "")
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["task"], summary["rounds"]) == ("task:load", 3)

    def test_is_compared_in_its_folder(self, inside, tmp_path, in_this_process):
        result = call("compare", "-q", *keys(SHORT), "--strategies", "z-sgd,laser", "--out", tmp_path / "all")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "laser" in result.stdout

    def test_shows_three_strategies_as_a_script(self, inside, capsys, monkeypatch):
        import laser_fl

        whole = laser_fl.compare
        monkeypatch.setattr(laser_fl, "compare", lambda *given, **options: whole(*given, **options | {"rounds": 2}))
        runpy.run_path("task.py", run_name="__main__")
        heading, *lines = capsys.readouterr().out.splitlines()
        assert heading.split() == ["strategy", "test_accuracy", "uplink_floats_per_round"]
        assert [line.split()[0] for line in lines] == ["sgd", "z-sgd", "laser"]

    @pytest.mark.thorough
    @pytest.mark.filterwarnings("ignore:z-sgd.*:UserWarning")  # its model diverges, as the table says
    def test_gives_as_a_script_the_result_that_its_readme_shows(self, inside, capsys):
        runpy.run_path("task.py", run_name="__main__")
        printed = [line.split() for line in capsys.readouterr().out.splitlines()]
        shown = re.search(r"^ *strategy.*?```", (inside / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
        expected = [line.split() for line in shown.splitlines()[:-1]]
        assert [line[0] for line in printed] == [line[0] for line in expected]
        for line, other in zip(printed[1:], expected[1:], strict=True):
            assert float(line[1]) == pytest.approx(float(other[1]), abs=0.05, nan_ok=True)
            assert float(line[2]) == pytest.approx(float(other[2]), nan_ok=True)

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        "engine",
        [
            pytest.param("simulated", marks=pytest.mark.simulation),
            pytest.param("deployed", marks=pytest.mark.deployment),
        ],
    )
    def test_gives_by_flwr_run_the_run_in_process_bit_by_bit(self, app, tmp_path, monkeypatch, engine):
        by_flower(app, tmp_path / engine, engine)
        monkeypatch.chdir(app)
        with visiting(app):
            assert call("run", "-q", *keys(SHORT), "--out", tmp_path / "direct").exit_code == 0
        for file in TABLES:
            assert (tmp_path / engine / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
        there, here = (json.loads((tmp_path / run / "config.json").read_text()) for run in (engine, "direct"))
        assert {key for key in here if there[key] != here[key]} <= {"out-dir", "min-available-nodes"}


def by_flower(app, out, engine):
    """Run an app by `flwr run` on two nodes, which find its modules in its bundle alone."""
    with private_folder() as home:
        if engine == "simulated":
            with simulation(home):
                flwr_run(app, home, out)
        else:
            with Deployment(2, home) as deployment:
                deployment.list_keys(0, 1)
                deployment.start(0, 1)
                flwr_run(app, home, out, "min-available-nodes=2")


def flwr_run(app, home, out, *more):
    values = SHORT | {"out-dir": str(out)}
    given = " ".join([*(f"{key}={json.dumps(value)}" for key, value in values.items()), *more])
    command = [tool("flwr"), "run", str(app), CONNECTION, "--stream", "--run-config", given]
    done = subprocess.run(
        command, env=environment(home), cwd=home, capture_output=True, text=True, timeout=600, check=False
    )
    assert (out / "summary.json").exists(), done.stdout + done.stderr
