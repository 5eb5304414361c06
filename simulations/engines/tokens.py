"""Tokens by which Flower's processes of one run know each other, made anew for each run, in its Flower home."""

import base64
import json
import secrets
from pathlib import Path

from simulations.private import write_private

KEYS = "keys"  # the folder of the home in which secrets lie
LOGIN = "credentials.yaml"  # where `flwr` looks for its login in a home; YAML has JSON within
LOGIN_KEY = "flower.account-auth.{address}.{name}"


def make_tokens(home: Path, address: str) -> None:
    """Make the owner's token for the SuperLink at an address, `flwr`'s login with it, and the SuperExecs' secret."""
    token = secrets.token_hex(32)
    write_private(_owner(home), token.encode())
    write_private(executor_secret(home), secrets.token_bytes(32))
    login = {"authn-type": "oidc", "oidc-access-token": token, "oidc-refresh-token": "none"}
    encoded = {
        LOGIN_KEY.format(address=address, name=name): base64.b64encode(value.encode()).decode()
        for name, value in login.items()
    }
    write_private(home / LOGIN, json.dumps(encoded).encode())


def owner_token(home: Path) -> str:
    """Return the owner's token."""
    return _owner(home).read_text()


def executor_secret(home: Path) -> Path:
    """Return the path of the secret with which SuperExecs sign their requests for work."""
    return home / KEYS / "executor"


def _owner(home: Path) -> Path:
    return home / KEYS / "owner"
