"""Processes of Flower's on this machine, in a home, with a working directory and an environment of their own."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from laser_fl.errors import ConfigError
from simulations.engines.closed import write_commands
from simulations.engines.credentials import ServerFiles
from simulations.engines.keeper import STOP
from simulations.private import own_ray
from simulations.proxies import direct

HOST = "127.0.0.1"

Process = subprocess.Popen[bytes]


def environment(home: Path) -> dict[str, str]:
    """Return the environment of all processes that belong to the SuperLink with this home.

    They find the modules that this process finds, in the same order, and after them those in the current folder, where
    a user's own parts may lie.
    """
    ray = {} if "RAY_ADDRESS" in os.environ else own_ray(os.environ)
    return (
        direct(os.environ)
        | ray
        | {
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
    )


def serve(name: str, command: Sequence[str], port: int, server: ServerFiles, env: dict[str, str]) -> Process:
    """Start a SuperLink or a SuperNode, and a SuperExec that starts the apps of its runs.

    Args:
        name: of the files in the home that have its commands and, with the ending .log, its output.
        command: without the options that all have: port, TLS, authentication of its SuperExec.
        port: on which it listens, on the loopback.
        server: its files for TLS.
        env: as `environment` returns it.
    """
    home = Path(env["FLWR_HOME"])
    tls = ["--ssl-ca-certfile", server.authority, "--ssl-certfile", server.certificate, "--ssl-keyfile", server.key]
    options = [str(word) for word in ("--host", HOST, "--port", port, *tls)]
    started = write_commands(home, name, [*command, *options], f"{HOST}:{port}", str(server.authority))
    with (home / f"{name}.log").open("w") as log:
        return keep(started, env, home, log)


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
