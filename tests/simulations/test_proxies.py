"""What processes of one machine say to each other asks no proxy; other hosts are reached as before."""

import urllib.request
from pathlib import Path

import httpx
import pytest

from simulations.engines.processes import environment
from simulations.proxies import direct

PROXY = "http://proxy.example.org:3128"


@pytest.fixture
def surroundings(monkeypatch):
    """Environment variables as a process has them that `environment` was given."""

    def set_to(**variables):
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        made = environment(Path("/home"))
        for name in variables.keys() - made.keys():
            monkeypatch.delenv(name)
        for name, value in made.items():
            monkeypatch.setenv(name, value)
        return made

    return set_to


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_the_loopback_is_reached_directly_and_others_by_the_proxy(surroundings, name):
    made = surroundings(**{name: PROXY})
    assert made[name] == PROXY
    scheme = "https" if "https" in name.lower() else "http"
    for host in ("127.0.0.1:8443", "localhost"):
        assert urllib.request.proxy_bypass(host)
    assert not urllib.request.proxy_bypass("example.org")
    with httpx.Client() as client:  # with which Flower speaks
        direct_way = client._transport
        assert client._transport_for_url(httpx.URL(f"{scheme}://127.0.0.1:8443")) is direct_way
        assert client._transport_for_url(httpx.URL(f"{scheme}://example.org")) is not direct_way


def test_who_was_reached_directly_still_is():
    made = direct({"no_proxy": "one.org, .two.org", "NO_PROXY": "three.org,one.org"})
    assert made["no_proxy"] == made["NO_PROXY"] == "one.org,.two.org,three.org,127.0.0.1,localhost"
    assert made["no_grpc_proxy"] == made["no_proxy"]
    assert (
        direct({"no_grpc_proxy": "four.org", "no_proxy": "one.org"})["no_grpc_proxy"] == "four.org,127.0.0.1,localhost"
    )


def test_all_stay_all():
    assert direct({"NO_PROXY": "*"})["no_proxy"] == "*"


@pytest.mark.parametrize("value", ["socks5h://127.0.0.1:9050", "socks://proxy.example.org:1080"])
def test_a_socks_proxy_does_not_keep_flower_from_beginning(surroundings, value):
    surroundings(all_proxy=value, HTTP_PROXY=PROXY)
    with httpx.Client() as client:
        assert client._transport_for_url(httpx.URL("http://127.0.0.1:1")) is client._transport


def test_nothing_else_changes():
    assert direct({"PATH": "/bin"}).items() >= {("PATH", "/bin")}
