"""Shared parts of the engines that use ``flwr run``: a SuperLink of their own, and a run on it to its end.

The SuperLink gets a home, a port and a working directory of its own, so that neither the user's Flower settings nor a
SuperLink that already runs is touched. Every user of the machine may connect to it, and it obeys the run's owner only.
The SuperLink is stopped when the run is over; its messages stay on the loopback, and no proxy is asked for them. The
app is made for the run, and uses the packages of this environment.
"""

import io
import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import tomli_w

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError
from laser_fl.federated.setup import data_dir, prepare
from laser_fl.storage.files import conclude, refuse_in_use
from laser_fl.storage.resume import refuse_other_run
from laser_fl.storage.run_folder import refuse_used
from simulations.engines.app import TRAINING, Components, write_app
from simulations.engines.causes import cause, cause_in, gives_reason, plain
from simulations.engines.credentials import ServerFiles
from simulations.engines.processes import HOST, Process, environment, keep, serve, stop, tool
from simulations.engines.tokens import make_tokens

CONNECTION = "laser-fl"
PATIENCE_SECONDS = 120  # the end of a process is noticed at once
SUPERLINK_PREFIX = "Simulation failed with exception: "
OF_THE_OWNER = ("/v1/control/list-runs", "/v1/runtime/acquire-task")  # to read and give orders; to take work


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
def superlink(home: Path, port: int, server: ServerFiles, options: Sequence[str]) -> Iterator[dict[str, str]]:
    """Run a SuperLink with its own home and port; yield the environment in which ``flwr`` finds it.

    Args:
        home: its folder.
        port: on which it listens, on the loopback.
        server: its files for TLS.
        options: of ``flower-superlink``, besides those that close it to others.

    Raises:
        LaserError: it did not start, or would obey others.
    """
    address = f"{HOST}:{port}"
    connection = {"address": address, "root-certificates": str(server.authority)}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": CONNECTION, CONNECTION: connection}}))
    make_tokens(home, address)
    env = environment(home)
    process = serve("superlink", ["flower-superlink", "--enable-supernode-auth", *options], port, server, env)
    try:
        stranger = _Stranger(address, server.authority)
        _wait_until_healthy(process, stranger, home / "superlink.log")
        stranger.refuse_obedience()
        yield env
    finally:
        stop(process)


class _Stranger:
    """Somebody who can connect to the SuperLink and has no token."""

    def __init__(self, address: str, authority: Path) -> None:
        secure = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority)))
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({}), secure).open
        self._address = f"https://{address}"

    def is_answered(self) -> bool:
        with suppress(OSError), self._open(f"{self._address}/health", timeout=PATIENCE_SECONDS):
            return True
        return False

    def refuse_obedience(self) -> None:
        """Raise LaserError where the SuperLink obeys a stranger, which a later Flower may make of it."""
        for path in OF_THE_OWNER:
            order = urllib.request.Request(self._address + path, b"", {"Content-Type": "application/protobuf"})
            try:
                with self._open(order, timeout=PATIENCE_SECONDS) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                status = error.code
            if status != HTTPStatus.UNAUTHORIZED:
                raise LaserError(f"flwr: its SuperLink must refuse strangers, got {status} for {path}: other version?")


def _wait_until_healthy(process: Process, stranger: _Stranger, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if stranger.is_answered():
            return
        time.sleep(0.1)
    timeout = f"it did not answer within {PATIENCE_SECONDS} seconds"
    raise LaserError(f"the SuperLink did not start: {timeout if process.poll() is None else cause_in(log)}")
