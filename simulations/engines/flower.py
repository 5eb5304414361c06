"""The flower engine: the same run through ``flwr run``, on a SuperLink of its own.

The SuperLink gets a home, a port and a working directory of its own, so that neither the user's
Flower settings nor one that already runs is touched, and is stopped when the run is over.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError
from laser_fl.run_folder import SUMMARY, refuse_used
from laser_fl.setup import data_dir, prepare
from simulations.signals import ending_on_signals

APP = Path(__file__).parents[2]
CONNECTION = "laser-fl"
PATIENCE_SECONDS = 60


def run(config: RunConfig, out: Path, nodes: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Run `config` on `nodes` simulated SuperNodes into the folder `out`; returns the summary.

    show: is given every line of the run's log.

    Raises:
        ConfigError, DataError: the run cannot start; all that can be known is checked before.
        TrainingError: the run failed, with its reason.
    """
    if nodes > config.clients:
        raise ConfigError(f"clients: must be at least the number of SuperNodes, {nodes}, got {config.clients}")
    if not (APP / "pyproject.toml").is_file():
        raise ConfigError(f"engine: flower needs the project's source tree (pip install -e .), not found in {APP}")
    refuse_used(out)
    prepare(config).training()  # refuses what depends on the data, the device and the run's length
    # The apps run in another directory: whatever is relative to this one must not stay so.
    values = config.to_flat() | {"out-dir": str(out.resolve()), "data-dir": str(data_dir(config).resolve())}
    launch(APP, values, nodes, show)
    summary: dict[str, Any] = json.loads((out / SUMMARY).read_text())
    return summary


def launch(app: Path, values: Mapping[str, Any], nodes: int, show: Callable[[str], None]) -> None:
    """Run the Flower app in the folder `app` with `values` as its run config, on a SuperLink of its own.

    Raises:
        TrainingError: it did not complete, with its reason.
    """
    with (
        ending_on_signals(),
        tempfile.TemporaryDirectory(prefix="lfl", dir=_short_folder()) as home,
        _superlink(Path(home)) as env,
    ):
        overrides = Path(home) / "run.toml"
        overrides.write_text(tomli_w.dumps(values))
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        options = ["--run-config", str(overrides), "--federation-config", federation]
        run_id, lines = _flwr_run(env, app, options, show)
        status, details = _outcome(env, run_id)
    if status != "finished:completed":
        raise TrainingError(_reason(details, lines))


def _flwr_run(env: dict[str, str], app: Path, options: list[str], show: Callable[[str], None]) -> tuple[str, list[str]]:
    """Start the run and show its log to the end; returns (its id, the log's lines)."""
    command = [_tool("flwr"), "run", str(app), CONNECTION, "--stream", *options]
    run_id, lines = "", []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            show(lines[-1])
            if match := re.search(r"started run (\d+)", line):
                run_id = match[1]
    if not run_id:
        raise TrainingError("flwr run did not start: " + " ".join(line.strip("│╭╮╰╯─ ") for line in lines[-3:]).strip())
    return run_id, lines


def _outcome(env: dict[str, str], run_id: str) -> tuple[str, str]:
    """The run's final status and its details, as the SuperLink tells them."""
    command = [_tool("flwr"), "ls", CONNECTION, "--run-id", run_id, "--format", "json"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if told.returncode != 0:
            raise TrainingError("the SuperLink does not tell how the run ended: " + told.stderr.strip())
        run = json.loads(told.stdout)["runs"][0]
        if run["status"].startswith("finished"):
            return run["status"], run["status-details"]
        if time.monotonic() > deadline:
            raise TrainingError(f"the run's log has ended, but it is still {run['status']}")
        time.sleep(0.2)


def _reason(details: str, lines: list[str]) -> str:
    """What made a run fail: the exception's text, else the last error on its log."""
    prefix = "Simulation failed with exception: "
    if details.startswith(prefix):
        return details.removeprefix(prefix)
    return next((line for line in reversed(lines) if "Error" in line or "ERROR" in line), details)


def _short_folder() -> str | None:
    """Where the SuperLink's home goes: Ray's socket names in it must stay below 108 bytes."""
    return "/tmp" if len(tempfile.gettempdir()) > 30 and Path("/tmp").is_dir() else None


@contextmanager
def _superlink(home: Path) -> Iterator[dict[str, str]]:
    """A SuperLink with its own home and port; yields the environment in which ``flwr`` finds it."""
    port = _free_port()
    (home / "config.toml").write_text(
        tomli_w.dumps(
            {"superlink": {"default": CONNECTION, CONNECTION: {"address": f"127.0.0.1:{port}", "insecure": True}}}
        )
    )
    env = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # the run uses this environment
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's default-to-be; else it warns
        "RAY_TMPDIR": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    command = [_tool("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    with (home / "superlink.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, home / "superlink.log")
        yield env
    finally:
        _stop(process)


def _wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
            return
        time.sleep(0.1)
    lines = log.read_text().strip().splitlines()
    raise LaserError("the SuperLink did not start: " + (lines[-1] if lines else "it said nothing"))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the SuperLink and everything below it: its executor leads a process group of its own."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(child.pid), signal.SIGKILL)
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tool(name: str) -> str:
    """The path of a command that came with this environment's Flower."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"engine: flower needs the command {name}, not found: pip install 'flwr[simulation]'")
    return found
