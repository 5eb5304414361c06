"""A SuperLink or SuperNode that serves its owner only, as the commands of one's own deployment start it.

``python -m simulations.engines.closed flower-superlink --address link.example.org:8443 [OPTIONS OF FLOWER'S]``, and
likewise ``flower-supernode``. Its tokens lie in the folder FLWR_HOME, made at its first start; whoever has the login
there, credentials.yaml, is the owner to ``flwr``.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from simulations.engines.tokens import LOGIN, executor_secret, make_tokens
from simulations.private import write_private

PORTS = {"flower-superlink": 8000, "flower-supernode": 9094}  # Flower's own choice


def main() -> None:
    """Run the command on the command line, in place of this process."""
    parser = _parser()
    given, options = parser.parse_known_args()
    if not os.environ.get("FLWR_HOME"):
        parser.error("FLWR_HOME: must name a folder for this command's tokens, is not set")
    home = Path(os.environ["FLWR_HOME"]).resolve()
    home.mkdir(mode=0o700, exist_ok=True)
    if not (home / LOGIN).exists():
        make_tokens(home, given.address)
    port = given.port or PORTS[given.command]
    options += ["--host", given.host, "--port", str(port)]
    if given.authority:
        options += ["--ssl-ca-certfile", given.authority]
    calls = f"{given.host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    started = write_commands(home, given.command, [given.command, *options], calls, given.authority)
    os.execve(started[0], started, os.environ | {"FLWR_HOME": str(home)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulations.engines.closed", allow_abbrev=False)
    parser.add_argument("command", choices=PORTS)
    parser.add_argument("--address", default="", help="by which flwr calls the SuperLink, in its config.toml")
    parser.add_argument("--host", default="127.0.0.1", help="on which it listens")
    parser.add_argument("--port", type=int, help="on which it listens")
    parser.add_argument("--ssl-ca-certfile", dest="authority", help="certificate of the authority that signed its own")
    return parser


def write_commands(home: Path, name: str, command: Sequence[str], calls: str, authority: str | None) -> list[str]:
    """Write a command of Flower's, and one of a SuperExec that starts its apps, where `flower_process` reads them.

    Args:
        home: Flower's, with tokens.
        name: of the command, in the home.
        command: a SuperLink or SuperNode.
        calls: the address at which its SuperExec calls it.
        authority: certificate of the authority that signed its own; None: it does without TLS.

    Returns:
        The command that runs both.
    """
    secret = ["--superexec-auth-secret-file", str(executor_secret(home))]
    trust = ["--root-certificates", authority] if authority else ["--insecure"]
    executor = ["flower-superexec", "--runtime-api-address", calls, *trust, *secret]
    commands = {name: [*command, "--isolation", "process", *secret], f"{name}-executor": executor}
    for key, words in commands.items():
        (home / f"{key}.json").unlink(missing_ok=True)
        write_private(home / f"{key}.json", json.dumps(words).encode())
    return [sys.executable, "-m", "simulations.engines.flower_process", *commands]


if __name__ == "__main__":
    main()
