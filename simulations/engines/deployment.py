"""The deployment engine: the same run on a real SuperLink and real SuperNodes, processes on this machine.

They communicate over TLS on the loopback. The SuperLink admits only SuperNodes whose keys are listed, and obeys nobody
but the run's owner. Certificates, keys, Flower's settings and ports are this deployment's own, and all processes that
it started end with it.
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

from clients.own import NAMED, OWN
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError
from laser_fl.storage.files import CHECKPOINTS, SUMMARY
from simulations.engines.causes import cause_in
from simulations.engines.credentials import make_node, make_server
from simulations.engines.processes import HOST, Process, free_ports, serve, stop
from simulations.engines.superlink import CONNECTION, PATIENCE_SECONDS, ask, checked, run_app, summed_up, superlink
from simulations.engines.tokens import KEYS
from simulations.private import private_folder
from simulations.signals import ending_on_signals

# A SuperLink considers a SuperNode alive for 60 seconds after its last heartbeat, and refuses its key until then. A run
# is notified within 3 seconds more; if the SuperNode were back by then, the run would wait for its reply until the
# reply-timeout.
FORGETTING_SECONDS = 65
ADMITTED = "SuperNode ID:"  # in the log of a SuperNode that the SuperLink has admitted
REFUSAL = re.compile(r"Failed to initialize the connection to the SuperLink\.\n(.+)")


def run(
    config: RunConfig, out: Path, nodes: int, show: Callable[[str], None], port: int | None = None
) -> dict[str, Any]:
    """Run `config` on SuperNodes into the folder `out`.

    Args:
        config: of the run.
        out: the run's folder.
        nodes: number of SuperNodes.
        show: called with every line of the run's log.
        port: of the SuperLink, on the loopback; None: a free one.

    Returns:
        The summary.

    Raises:
        ConfigError, DataError: the run cannot start; all that can be known is checked before.
        TrainingError: the run failed, with its reason.
    """
    refuse_used_port(port)
    values = checked(config, out, nodes)
    own = dict.fromkeys(range(nodes), _own(values))
    with (
        summed_up(out),
        ending_on_signals(),
        private_folder() as home,
        Deployment(nodes, home, port, own) as deployment,
    ):
        deployment.list_keys(*range(nodes))
        deployment.start(*range(nodes))
        deployment.run(values | {"min-available-nodes": nodes}, show)
    summary: dict[str, Any] = json.loads((out / SUMMARY).read_text())
    return summary


def _own(values: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the node config of SuperNodes on this machine, for its own user: paths and device of the run."""
    own = {key: values[key] for key in (*OWN, *NAMED) if values.get(key) not in (None, "")}
    return own | {"checkpoint-dir": str(Path(values["out-dir"]) / CHECKPOINTS)}


def refuse_used_port(port: int | None) -> None:
    """Raise ConfigError where a SuperLink could not listen on `port`."""
    if port is None:
        return
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port: must be between 1 and 65535, got {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the SuperLink sets it, too
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EADDRINUSE).lower()
            raise ConfigError(f"--port: must be free, got {port} ({reason})") from None


class Deployment:
    """A SuperLink and up to `nodes` SuperNodes, each with a key of its own; numbered by their partition-id.

    Entering the context starts the SuperLink, leaving it ends every process. The SuperLink admits the SuperNodes whose
    keys were listed.
    """

    def __init__(
        self,
        nodes: int,
        home: Path,
        port: int | None = None,
        own: Mapping[int, Mapping[str, str | int]] | None = None,
    ) -> None:
        """Make the keys; no process starts yet.

        Args:
            nodes: largest number of SuperNodes.
            home: an empty folder of this user's, for settings, keys and logs.
            port: of the SuperLink; None: a free one.
            own: by node, the settings of its owner in the node config: device, threads, data-dir, checkpoint-dir.
        """
        free, *self._ports = free_ports(nodes + 1)  # a SuperNode has a port, too, for its own processes
        self._port = free if port is None else port
        self._home, self._own = home, own or {}
        self.server = make_server(home / KEYS, HOST)
        self.keys = [make_node(home / KEYS, f"node-{node}") for node in range(nodes)]
        self._processes: dict[int, Process] = {}
        self._forgotten: dict[int, float] = {}
        self._env: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Deployment":
        """Start the SuperLink. Raises LaserError where it does not start."""
        with ExitStack() as stack:
            self._env = stack.enter_context(superlink(self._home, self._port, self.server, []))
            stack.callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End every process."""
        self._stack.close()

    def list_keys(self, *nodes: int) -> None:
        """List the public keys of these SuperNodes at the SuperLink. Raises LaserError where it refuses them."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self._list_key, nodes))

    def start(self, *nodes: int) -> None:
        """Start these SuperNodes, and wait until the SuperLink admits them. Raises LaserError where it refuses."""
        for node in nodes:
            self._launch(node)
        for node in nodes:
            self._wait_until_admitted(node)

    def kill(self, node: int) -> None:
        """Kill a SuperNode and all its processes, as a power cut would."""
        stop(self._processes.pop(node))
        self._forgotten[node] = time.monotonic() + FORGETTING_SECONDS

    def restart(self, node: int) -> None:
        """Start a killed SuperNode again, as soon as the SuperLink has noticed its end."""
        time.sleep(max(0.0, self._forgotten[node] - time.monotonic()))
        self.start(node)

    def run(self, values: Mapping[str, Any], show: Callable[[str], None]) -> None:
        """Carry out a run to its end.

        Args:
            values: the run config.
            show: called with every line of the log.

        Raises:
            TrainingError: it failed, with its reason.
        """
        run_app(self._env, values, show)

    def log(self, node: int) -> str:
        """Return the log of a SuperNode and its processes since its start."""
        return self._log(node).read_text()

    def _list_key(self, node: int) -> None:
        answer = ask(self._env, "supernode", "register", str(self.keys[node].public), CONNECTION)
        if answer.returncode != 0:
            raise LaserError(f"SuperNode {node}: its key was not listed: {answer.stderr.strip()}")

    def _launch(self, node: int) -> None:
        place: dict[str, str | int] = {"partition-id": node, "num-partitions": len(self.keys)}
        command = ["flower-supernode", "--superlink", f"{HOST}:{self._port}"]
        command += ["--root-certificates", str(self.server.authority)]
        command += ["--auth-supernode-private-key", str(self.keys[node].key)]
        command += ["--node-config", _options(place | dict(self._own.get(node, {})))]
        self._processes[node] = serve(f"node-{node}", command, self._ports[node], self.server, self._env)

    def _wait_until_admitted(self, node: int) -> None:
        process, deadline = self._processes[node], time.monotonic() + PATIENCE_SECONDS
        while ADMITTED not in self.log(node):
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
    """Format values for ``--node-config``."""
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
