"""Proxies: messages between processes of one machine go without them."""

from collections.abc import Mapping

LOOPBACK = ("127.0.0.1", "localhost")


def direct(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment like `env` in which the loopback needs no proxy; other machines are reached as before.

    The entries for machines without a proxy stay. SOCKS proxies do not: httpx, which Flower uses, cannot start beside
    one.
    """
    exempt = _entries(env, "no_proxy", "NO_PROXY")
    usual = "*" if "*" in exempt else ",".join(dict.fromkeys([*exempt, *LOOPBACK]))
    for_grpc = ",".join(dict.fromkeys([*(_entries(env, "no_grpc_proxy") or exempt), *LOOPBACK]))
    proxies = {"no_proxy": usual, "NO_PROXY": usual, "no_grpc_proxy": for_grpc}
    return {name: value for name, value in env.items() if not _is_socks(name, value)} | proxies


def _entries(env: Mapping[str, str], *names: str) -> list[str]:
    return [entry for name in names for part in env.get(name, "").split(",") if (entry := part.strip())]


def _is_socks(name: str, value: str) -> bool:
    return name.lower().endswith("_proxy") and value.lower().startswith("socks")
