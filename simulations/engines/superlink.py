"""Shared parts of the engines that use ``flwr run``: a SuperLink of their own, and a run on it to its end.

The SuperLink gets a home, a port and a working directory of its own, so that neither the user's Flower settings nor a
SuperLink that already runs is touched. The SuperLink is stopped when the run is over; its messages stay on the
loopback, and no proxy is asked for them. The app is made for the run, and uses the packages of this environment.
"""

import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import tomli_w

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError
from laser_fl.federated.setup import data_dir, prepare
from laser_fl.storage.files import conclude, refuse_in_use
from laser_fl.storage.resume import refuse_other_run
from laser_fl.storage.run_folder import refuse_used
from simulations.engines.app import TRAINING, Components, write_app
from simulations.engines.causes import cause, cause_in, gives_reason, plain
from simulations.engines.keeper import STOP
from simulations.proxies import direct

CONNECTION = "laser-fl"
HOST = "127.0.0.1"
PATIENCE_SECONDS = 120  # the end of a process is noticed at once
SUPERLINK_PREFIX = "Simulation failed with exception: "

Process = subprocess.Popen[bytes]


def checked(config: RunConfig, out: Path, nodes: int) -> dict[str, Any]:
    """Check all that can be known before the run, and return the run config for the app.

    Args:
        config: of the run.
        out: the run's folder.
        nodes: number of SuperNodes.

    Raises:
        ConfigError, DataError: the run cannot start.
    """
    if nodes > config.clients:
        raise ConfigError(f"clients: must be at least the number of SuperNodes, {nodes}, got {config.clients}")
    if config.resume:
        refuse_other_run(out, config, "flower")
        refuse_in_use(out)
    else:
        refuse_used(out)
    setup = prepare(config)
    setup.server()  # refuses settings that do not fit the data, the device or the run's length
    setup.refuse_untrainable()
    # The apps run in another directory, so that no path may stay relative to this one.
    paths = {"out-dir": str(out.resolve()), "data-dir": str(data_dir(config).resolve())}
    paths |= {"dataset": _absolute(config.dataset), "model": _model(config.model)}
    return config.to_flat() | paths | {"resume": paths["out-dir"] if config.resume else ""}


def _model(name: str) -> str:
    """Return a model's name, with an absolute path where it is a folder of transformers here."""
    library, colon, place = name.partition(":")
    return f"{library}:{_absolute(place)}" if library == "transformers" and colon else name


def _absolute(name: str) -> str:
    """Return an absolute path for the name of a folder or a file here; other names stay."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


@contextmanager
def summed_up(out: Path) -> Iterator[None]:
    """Leave a summary in a run's folder where its app ended before it could report why, as happens in simulations."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        reason = KeyboardInterrupt.__name__ if stopped else str(error) or type(error).__name__
        conclude(out, "flower", "interrupted" if stopped else "failed", reason)
        raise


def run_app(
    env: dict[str, str],
    values: Mapping[str, Any],
    show: Callable[[str], None],
    *more: str,
    components: Components = TRAINING,
) -> None:
    """Run a Flower app, made in the SuperLink's home for this run, to its end.

    Args:
        env: as `superlink` yields it.
        values: the app's run config.
        show: called with every line of the log.
        *more: options of ``flwr run``.
        components: the app's two sides.

    Raises:
        TrainingError: it did not complete, with its reason.
    """
    app = write_app(Path(env["FLWR_HOME"]) / "app", values, components)
    run_id, lines = _flwr_run(env, app, more, show)
    status, details = _outcome(env, run_id)
    if status != "finished:completed":
        raise TrainingError(_reason(details, lines))


def _flwr_run(
    env: dict[str, str], app: Path, options: Sequence[str], show: Callable[[str], None]
) -> tuple[str, list[str]]:
    """Start the run and show its log to the end; return (its id, the log's lines)."""
    command = [tool("flwr"), "run", str(app), CONNECTION, "--stream", *options]
    run_id, lines = "", []
    env = env | {"PYTHONUNBUFFERED": "1"}  # else the log comes in pieces of 8 KB: output into a pipe is not flushed
    process = keep(command, env, Path(env["FLWR_HOME"]), subprocess.PIPE)
    assert process.stdout is not None
    try:
        with io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace") as log:
            for line in log:
                lines.append(line.rstrip())
                if match := re.search(r"started run (\d+)", line):
                    run_id = match[1]
                show(lines[-1])
    finally:
        stop(process)
    if not run_id:
        last = (plain(line).strip("│╭╮╰╯─ ") for line in lines[-3:])
        raise TrainingError("flwr run did not start: " + " ".join(last).strip())
    return run_id, lines


def _outcome(env: dict[str, str], run_id: str) -> tuple[str, str]:
    """Return the run's final status and its details, as the SuperLink reports them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = ask(env, "ls", CONNECTION, "--run-id", run_id, "--format", "json")
        if answer.returncode != 0:
            raise TrainingError("the SuperLink does not report how the run ended: " + answer.stderr.strip())
        run = json.loads(answer.stdout)["runs"][0]
        if run["status"].startswith("finished"):
            return run["status"], run["status-details"]
        if time.monotonic() > deadline:
            raise TrainingError(f"the run's log has ended, but it is still {run['status']}")
        time.sleep(0.2)


def _reason(details: str, lines: list[str]) -> str:
    """Return the cause of a run's failure: the exception's text, else the last error in its log."""
    exception = details.removeprefix(SUPERLINK_PREFIX)
    return exception if exception != details and gives_reason(exception) else cause(lines) or details


def ask(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``flwr`` with `arguments`; return its status and its output."""
    return subprocess.run([tool("flwr"), *arguments], env=env, capture_output=True, encoding="utf-8", check=False)


@contextmanager
def home_folder() -> Iterator[Path]:
    """Yield a temporary folder that only this user may enter."""
    with tempfile.TemporaryDirectory(prefix="lfl", dir=_short_folder()) as home:
        yield Path(home)


def _short_folder() -> str | None:
    """Return the folder for the SuperLink's home; Ray's socket names there must stay below 108 bytes."""
    return "/tmp" if len(tempfile.gettempdir()) > 30 and Path("/tmp").is_dir() else None


@contextmanager
def superlink(home: Path, port: int, options: Sequence[str], authority: Path | None = None) -> Iterator[dict[str, str]]:
    """Run a SuperLink with its own home and port; yield the environment in which ``flwr`` finds it.

    Args:
        home: its folder.
        port: on which it listens, on the loopback.
        options: of ``flower-superlink``.
        authority: certificate of the authority that signed the SuperLink's; None: its connections are not encrypted.

    Raises:
        LaserError: it did not start.
    """
    trust = {"insecure": True} if authority is None else {"root-certificates": str(authority)}
    connection = {"address": f"{HOST}:{port}"} | trust
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}))
    env, log = environment(home), home / "superlink.log"
    command = [tool("flower-superlink"), "--isolation", "subprocess", "--host", HOST, "--port", str(port), *options]
    process = start(command, env, home, log)
    try:
        _wait_until_healthy(process, port, log, authority)
        yield env
    finally:
        stop(process)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of all processes that belong to the SuperLink with this home.

    They find the modules that this process finds, in the same order, and after them those in the current folder, where
    a user's own parts may lie.
    """
    return direct(os.environ) | {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # the run uses this environment
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds between two polls for work; Flower's default is 1
        "FLWR_TELEMETRY_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(Path(folder).absolute()) for folder in [*sys.path, ""])),
        "PYTHONUTF8": "1",  # the output of these processes is read as UTF-8, whatever the terminal's encoding
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default of Ray, which warns otherwise
        "RAY_TMPDIR": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def start(command: list[str], env: dict[str, str], home: Path, log: Path) -> Process:
    """Start a command as `keep` does; its output goes into a file.

    Args:
        command: and its arguments.
        env: its environment.
        home: its working directory.
        log: the file, written anew.
    """
    with log.open("w") as file:
        return keep(command, env, home, file)


def keep(command: list[str], env: dict[str, str], home: Path, out: int | IO[str]) -> Process:
    """Start a command that ends by `stop`, or with this process, whatever ends that; its descendants end with it.

    Args:
        command: and its arguments.
        env: its environment.
        home: its working directory.
        out: for its output and errors, as `subprocess.Popen` takes it.
    """
    watched = [sys.executable, "-m", "simulations.engines.keeper", str(home.resolve()), *command]
    return subprocess.Popen(
        watched, env=env, cwd=home, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )


def stop(process: Process) -> None:
    """End a command and its descendants, where it has not ended."""
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(STOP)
    process.wait()


def _wait_until_healthy(process: Process, port: int, log: Path, authority: Path | None) -> None:
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    address = f"{'http' if context is None else 'https'}://{HOST}:{port}/health"
    here = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), here.open(address, timeout=PATIENCE_SECONDS):
            return
        time.sleep(0.1)
    timeout = f"it did not answer within {PATIENCE_SECONDS} seconds"
    raise LaserError(f"the SuperLink did not start: {timeout if process.poll() is None else cause_in(log)}")


def free_ports(count: int) -> list[int]:
    """Return `count` different ports on which nothing listens."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def tool(name: str) -> str:
    """Return the path of a command of this environment's Flower. Raises ConfigError where it is not found."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ConfigError(f"engine: flower needs the command {name}, not found: pip install 'flwr[simulation]'")
    return found
