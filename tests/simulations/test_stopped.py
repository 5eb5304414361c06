"""What a command leaves behind that is stopped: no process, no file in memory, no folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.storage.files import LOCK
from laser_fl.transport.shared_folders import PREFIX
from simulations.cluster import cluster
from simulations.engines import flower, in_process
from simulations.engines.superlink import checked, summed_up

# A shell starts what is to run in the background with Ctrl-C ignored, and so would be whatever the tests start.
HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
LONG = ["-c", "model=linear", "-c", "clients=2", "-c", "rounds=100000"]


def started(*arguments):
    command = [sys.executable, "-c", HEEDING + "from simulations.cli import app; app()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def belongings(processes):
    """The folders in which processes work, and the boards that they have mapped."""
    folders = set()
    for process in processes:
        try:
            words, maps = process.cmdline(), [Path(one.path) for one in process.memory_maps()]
        except psutil.Error:
            continue
        folders |= {Path(word) for word in words if re.fullmatch(r"/.*/lfl\w+", word)}
        folders |= {path.parent for path in maps if path.parent.name.startswith(PREFIX)}
    return folders


def ended(number, round, run, *options):
    """Send a signal to a run on Flower after a round; assert that nothing of it is left but its folder.

    Returns the command's exit status and what it said last.
    """
    said, below, had = [], [], set()
    with started("run", "--engine", "flower", *options, "--out", run) as process:
        for line in process.stdout:
            said.append(line)
            if f"round {round}/" in line:
                below = psutil.Process(process.pid).children(recursive=True)
                had = belongings(below)
                process.send_signal(number)
    last = "".join(said[-20:])
    assert len(below) >= 6, last  # SuperLink, its executor, the simulation, Ray's
    assert {folder.name[:3] for folder in had} == {"lfl", PREFIX[:3]}
    assert psutil.wait_procs(below, timeout=60)[1] == []
    assert not [folder for folder in had if folder.exists()]
    return process.returncode, last


@pytest.mark.thorough
@pytest.mark.killed
@pytest.mark.simulation
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long)]
)
def test_a_run_on_flower_that_is_told_to_end_leaves_nothing(tmp_path, number, status):
    returned, last = ended(number, 1, tmp_path / "run", *LONG, "-c", "evaluate-every=1")
    assert returned == status, last
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.thorough
@pytest.mark.killed
@pytest.mark.simulation
def test_a_run_on_flower_that_is_killed_leaves_nothing_and_goes_on_to_the_last_bit(tmp_path):
    """On another SuperLink, from its last checkpoint."""
    values = {"model": "linear", "clients": 5, "batch-size": 16, "momentum": 0.9, "client-batching": "loop"}
    values |= {"rounds": 60, "evaluate-every": 1, "checkpoint-every": 10}
    options = [word for key, value in values.items() for word in ("-c", f"{key}={value}")]
    returned, last = ended(signal.SIGKILL, 23, tmp_path / "run", *options)
    assert returned == -signal.SIGKILL, last
    assert not (tmp_path / "run" / "summary.json").exists()
    flower.run(parse(values | {"resume": str(tmp_path / "run")}), tmp_path / "run", 2, lambda line: None)
    in_process.run(parse(values), tmp_path / "whole")
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.thorough
@pytest.mark.killed
def test_a_sweep_that_is_told_to_end_leaves_no_process_and_says_nothing(tmp_path):
    (tmp_path / "grid.toml").write_text('[fixed]\nmodel = "linear"\nrounds = 100000\n[grid]\nseed = [0, 1]\n')
    with started("sweep", tmp_path / "grid.toml", "--out", tmp_path / "runs", "--quiet") as process:
        while not list(tmp_path.glob("runs/*/config.json")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        said = process.stdout.read()
    assert (process.returncode, said.strip()) == (128 + signal.SIGTERM, "")
    assert psutil.wait_procs(below, timeout=60)[1] == []


class FakeRay(types.ModuleType):
    """Puts a handler of its own in the place of ours, as Ray does."""

    def __init__(self):
        super().__init__("ray")
        self.log = []

    def init(self, **options):
        self.log.append("init")
        signal.signal(signal.SIGTERM, lambda *_: self.log.append("stack dump"))

    def shutdown(self):
        self.log.append("shutdown")


def test_a_signal_lets_ray_shut_down_in_order(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with cluster(None):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 128 + signal.SIGTERM
    assert sys.modules["ray"].log == ["init", "shutdown"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert "127.0.0.1" in os.environ["no_proxy"]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(143), "interrupted", "KeyboardInterrupt"),
        (RuntimeError("it crashed"), "failed", "it crashed"),
    ],
    ids=["Ctrl-C", "SIGTERM", "crash"],
)
def test_a_run_whose_app_could_not_say_so_has_a_summary(tmp_path, error, status, reason):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(type(error)), summed_up(tmp_path):
        raise error
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told == {"status": status, "reason": reason, "engine": "flower"}


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path):
    """A second command was refused, which is no end of the first one's run."""
    (tmp_path / "config.json").write_text("{}")
    with FileLock(tmp_path / LOCK), pytest.raises(RuntimeError), summed_up(tmp_path):
        raise RuntimeError("out-dir: must not be in use by a run")
    assert not (tmp_path / "summary.json").exists()


def test_a_run_that_another_process_is_at_is_refused_before_flower_starts(tmp_path):
    values = {"model": "linear", "clients": 2, "rounds": 2, "out-dir": str(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps(parse(values).to_flat()))
    (tmp_path / "environment.json").write_text(json.dumps({"engine": "flower"}))
    going_on = parse(values | {"resume": str(tmp_path)})
    with FileLock(tmp_path / LOCK), pytest.raises(ConfigError, match="out-dir: must not be in use by a run"):
        checked(going_on, tmp_path, 2)


def test_what_the_app_said_stays_and_a_folder_without_a_run_stays_empty(tmp_path):
    with pytest.raises(KeyboardInterrupt), summed_up(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    for name in ("config.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(KeyboardInterrupt), summed_up(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / "summary.json").read_text() == "{}"
