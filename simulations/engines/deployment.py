"""The deployment engine: the same run on a real SuperLink and real SuperNodes, processes on this machine.

They talk over TLS on the loopback, and only SuperNodes whose keys are listed are let in. Certificates, keys,
Flower's settings and ports are this deployment's own, and all that it started ends with it.
"""

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError
from laser_fl.storage.files import SUMMARY
from simulations.engines.causes import cause_in
from simulations.engines.credentials import make_node, make_server
from simulations.engines.superlink import (
    APP,
    CONNECTION,
    HOST,
    PATIENCE_SECONDS,
    Process,
    ask,
    checked,
    free_ports,
    home_folder,
    run_app,
    start,
    stop,
    summed_up,
    superlink,
    tool,
)
from simulations.signals import ending_on_signals

# A SuperLink believes in a SuperNode for 60 seconds after its last sign of life, and refuses its key until then. A run
# is told within 3 seconds more, and if the SuperNode were back by then, waits for its answer until the reply-timeout.
FORGETTING_SECONDS = 65
LET_IN = "SuperNode ID:"  # on the log of a SuperNode that the SuperLink has let in
REFUSAL = re.compile(r"Failed to initialize the connection to the SuperLink\.\n(.+)")


def run(
    config: RunConfig, out: Path, nodes: int, show: Callable[[str], None], port: int | None = None
) -> dict[str, Any]:
    """Run `config` on `nodes` SuperNodes into the folder `out`; returns the summary.

    show: is given every line of the run's log. port: the SuperLink's, on the loopback; None: one that is free.

    Raises:
        ConfigError, DataError: the run cannot start; all that can be known is checked before.
        TrainingError: the run failed, with its reason.
    """
    refuse_taken(port)
    values = checked(config, out, nodes, "deployment")
    with summed_up(out), ending_on_signals(), home_folder() as home, Deployment(nodes, home, port) as deployment:
        deployment.list_keys(*range(nodes))
        deployment.start(*range(nodes))
        deployment.run(APP, values | {"min-available-nodes": nodes}, show)
    summary: dict[str, Any] = json.loads((out / SUMMARY).read_text())
    return summary


def refuse_taken(port: int | None) -> None:
    """Raises ConfigError where a SuperLink could not listen on `port`."""
    if port is None:
        return
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port: must be between 1 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the SuperLink does
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EADDRINUSE).lower()
            raise ConfigError(f"--port: must be free, got {port} ({reason})") from None


class Deployment:
    """A SuperLink and up to `nodes` SuperNodes, each with a key of its own; named by their partition-id.

    Entering starts the SuperLink, leaving ends every process. It lets in the SuperNodes that were listed.
    """

    def __init__(
        self,
        nodes: int,
        home: Path,
        port: int | None = None,
        own: Mapping[int, Mapping[str, str | int]] | None = None,
    ) -> None:
        """home: an empty folder of this user's, for settings, keys and logs. port: the SuperLink's.

        own: what the owners of some nodes say of them in their node config: device, data-dir, threads.
        """
        free, *self._ports = free_ports(nodes + 1)  # a SuperNode has one, too, for its own processes
        self._port = free if port is None else port
        self._home, self._own = home, own or {}
        self.server = make_server(home / "keys", HOST)
        self.keys = [make_node(home / "keys", f"node-{node}") for node in range(nodes)]
        self._processes: dict[int, Process] = {}
        self._forgotten: dict[int, float] = {}
        self._env: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Deployment":
        """Start the SuperLink. Raises LaserError where that does not work."""
        files = self.server
        options = ["--ssl-ca-certfile", str(files.authority), "--ssl-certfile", str(files.certificate)]
        options += ["--ssl-keyfile", str(files.key), "--enable-supernode-auth"]
        with ExitStack() as stack:
            self._env = stack.enter_context(superlink(self._home, self._port, options, files.authority))
            stack.callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End every process."""
        self._stack.close()

    def list_keys(self, *nodes: int) -> None:
        """Tell the SuperLink the public keys of these SuperNodes. Raises LaserError where it does not take them."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._list_key, nodes))

    def start(self, *nodes: int) -> None:
        """Start these SuperNodes, and wait until the SuperLink has let them in. Raises LaserError where it does not."""
        for node in nodes:
            self._launch(node)
        for node in nodes:
            self._wait_until_in(node)

    def kill(self, node: int) -> None:
        """End a SuperNode and all its processes, as a power cut would."""
        stop(self._processes.pop(node))
        self._forgotten[node] = time.monotonic() + FORGETTING_SECONDS

    def restart(self, node: int) -> None:
        """Start a SuperNode that was killed, as soon as the SuperLink has noticed that it was gone."""
        time.sleep(max(0.0, self._forgotten[node] - time.monotonic()))
        self.start(node)

    def run(self, app: Path, values: Mapping[str, Any], show: Callable[[str], None]) -> None:
        """Run the Flower app in the folder `app` to its end. Raises TrainingError where it fails."""
        run_app(self._env, app, values, show)

    def log(self, node: int) -> str:
        """What a SuperNode and its processes have said since it was started."""
        return self._log(node).read_text()

    def _list_key(self, node: int) -> None:
        told = ask(self._env, "supernode", "register", str(self.keys[node].public), CONNECTION)
        if told.returncode != 0:
            raise LaserError(f"SuperNode {node}: its key was not listed: {told.stderr.strip()}")

    def _launch(self, node: int) -> None:
        place: dict[str, str | int] = {"partition-id": node, "num-partitions": len(self.keys)}
        command = [tool("flower-supernode"), "--superlink", f"{HOST}:{self._port}"]
        command += ["--root-certificates", str(self.server.authority)]
        command += ["--auth-supernode-private-key", str(self.keys[node].key)]
        command += ["--node-config", _options(place | dict(self._own.get(node, {})))]
        command += ["--host", HOST, "--port", str(self._ports[node])]
        self._processes[node] = start(command, self._env, self._home, self._log(node))

    def _wait_until_in(self, node: int) -> None:
        process, deadline = self._processes[node], time.monotonic() + PATIENCE_SECONDS
        while LET_IN not in self.log(node):
            if process.poll() is not None or time.monotonic() > deadline:
                refusal = REFUSAL.search(self.log(node))
                self.kill(node)
                raise LaserError(f"SuperNode {node}: {refusal[1] if refusal else cause_in(self._log(node))}")
            time.sleep(0.1)

    def _log(self, node: int) -> Path:
        return self._home / f"node-{node}.log"

    def _end_all(self) -> None:
        for node in list(self._processes):
            self.kill(node)


def _options(values: Mapping[str, str | int]) -> str:
    """Values as ``--node-config`` takes them."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
