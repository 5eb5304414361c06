"""Commands of Flower's that serve their owner only: ``python -m simulations.engines.flower_process NAME [NAME...]``.

Any user of a machine may connect to its loopback and list the command lines of its processes. So this module

- reads each command from NAME.json in Flower's home, which only its owner may enter; the first runs in this process,
  the others in children of it;
- lets a SuperLink obey the owner's token alone, where Flower without its Enterprise edition obeys everybody;
- hands apps their tokens in files without names, where Flower writes them into command lines.

Flower is refused where it has no longer the parts that are replaced.
"""

import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TASK_TYPE_TO_COMMAND
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.tls import get_client_tls_args
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin

from simulations.engines.tokens import owner_token

ADDRESS = "--runtime-api-address"


def main() -> None:
    """Run the commands named on the command line."""
    name, *others = sys.argv[1:]
    for other in others:
        subprocess.Popen([sys.executable, "-m", __spec__.name, other])
    program, *arguments = json.loads((_home() / f"{name}.json").read_text())
    sys.argv = [program, *arguments]
    PROGRAMS[program]()


def superlink() -> None:
    """Run a SuperLink whose Control API takes the owner's token only."""
    module = import_module("flwr.superlink.cli.flower_superlink")
    _replace(module, "load_control_authn_plugin", lambda: OwnerOnly(owner_token(_home())))
    module.flower_superlink()


def supernode() -> None:
    """Run a SuperNode."""
    import_module("flwr.supernode.cli.flower_supernode").flower_supernode()


def superexec() -> None:
    """Run a SuperExec, which starts apps, as soon as there is the process that it asks for work."""
    sys.argv += ["--parent-pid", str(os.getppid())]  # it ends with the process that it asks for work
    _wait_for(sys.argv[sys.argv.index(ADDRESS) + 1])
    _replace(import_module("flwr.supercore.superexec.run_superexec"), "get_executor", lambda *_, **__: TokensInFiles())
    import_module("flwr.supercore.cli.flower_superexec").flower_superexec()


PROGRAMS: dict[str, Callable[[], None]] = {
    "flower-superlink": superlink,
    "flower-supernode": supernode,
    "flower-superexec": superexec,
}


class OwnerOnly(NoOpControlAuthnPlugin):
    """Flower's plug-in without accounts, but for a token that each request must carry."""

    def __init__(self, token: str) -> None:
        """Start with the token."""
        super().__init__()
        self._token = token

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return (True, the account) for a request with the token, else (False, None)."""
        given = str(dict(metadata).get(ACCESS_TOKEN_KEY, ""))
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return False, None
        return super().validate_tokens_in_metadata(metadata)


class TokensInFiles(SubprocessExecutor):
    """Flower's executor, but for the apps' tokens: each lies in a file that only the app's process has open."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of an app."""
        with tempfile.TemporaryFile() as file:
            file.write(spec.token.encode())
            file.seek(0)
            command = [TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]]
            command += [spec.runtime_api_address, "--token-file", f"/dev/fd/{file.fileno()}"]
            command += get_client_tls_args(spec.insecure, spec.root_certificates_path)
            command += ["--parent-pid", str(os.getpid())]
            out = subprocess.DEVNULL if spec.suppress_output else None
            subprocess.Popen(command, pass_fds=[file.fileno()], stdout=out, stderr=out)
        return LaunchResult.accepted()


def _replace(module: Any, name: str, part: object) -> None:
    """Replace a part of Flower. Raises AttributeError where Flower has none of this name."""
    getattr(module, name)
    setattr(module, name, part)


def _wait_for(address: str) -> None:
    """Wait until something listens at an address: Flower's own tries lie seconds apart."""
    host, port = address.rsplit(":", 1)
    while True:
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.1)


def _home() -> Path:
    return Path(os.environ["FLWR_HOME"])


if __name__ == "__main__":
    main()
