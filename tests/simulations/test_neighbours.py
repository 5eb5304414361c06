"""Another user of the machine, who can connect to what a run opens and list command lines, gains nothing by it."""

import json
import os
import re
import ssl
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from flwr.cli.constant import ACCESS_TOKEN_STORE_KEY, AUTHN_TYPE_STORE_KEY, REFRESH_TOKEN_STORE_KEY
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.supercore.constant import TaskType
from flwr.supercore.credential_store import FileCredentialStore
from flwr.supercore.superexec.executor.types import ExecutionSpec

from laser_fl.config import parse
from laser_fl.errors import LaserError
from simulations.cluster import cluster
from simulations.engines import closed, deployment, flower, flower_process, superlink
from simulations.engines.credentials import make_server
from simulations.engines.processes import HOST
from simulations.engines.tokens import make_tokens, owner_token
from simulations.private import own_ray, private_folder
from tests.simulations.neighbour import OF_RAY, Neighbour

SHORT = {"model": "linear", "clients": 2, "batch-size": 16, "evaluate-every": 1}
SECRET = re.compile(r"[0-9a-f]{64}|--token[ =]|PRIVATE KEY|/keys/(?!\S+\.(crt|pub)\b)")
LOGIN = "/v1/control/get-login-details"  # answers that there are no accounts
ORDERS = {"/v1/control/start-run", "/v1/control/list-runs", "/v1/control/stop-run", "/v1/control/stream-logs"}
WORK = "/v1/runtime/acquire-task"
NODES = {"/v1/control/register-node", "/v1/fleet/pull-messages", "a key of one's own", "its activation"}
RAY = {f"/ray.rpc.{service}/{orders[0]}" for service, orders in OF_RAY.items()} | {"Ray's runtime environment"}


def attacked(run, folder, rounds, mark):
    """Run to the end beside a neighbour, who attacks when a line of the log has the mark."""
    attacks = []

    def show(line):
        if mark in line:
            attacks.append(line)
            neighbour.attack()

    with Neighbour().watching() as neighbour:
        summary = run(parse(SHORT | {"rounds": rounds}), folder / "run", 1, show)
    assert len(attacks) == 1
    assert summary["status"] == "completed"
    return neighbour


@pytest.mark.thorough
@pytest.mark.simulation
def test_a_run_on_flower_obeys_its_owner_only_and_tells_no_secret(tmp_path):
    neighbour = attacked(flower.run, tmp_path, 60, "round 1/")
    assert set(neighbour.obeyed) <= {LOGIN}
    assert set(neighbour.refused) >= ORDERS | NODES | RAY | {WORK}
    assert neighbour.hosts == {HOST}
    assert any("flwr-simulation" in command for command in neighbour.commands)
    assert not [command for command in neighbour.commands if SECRET.search(command)]


@pytest.mark.thorough
@pytest.mark.deployment
def test_a_deployment_obeys_its_owner_only_and_tells_no_secret(tmp_path):
    neighbour = attacked(deployment.run, tmp_path, 1, "laser over awgn")
    assert set(neighbour.obeyed) <= {LOGIN}
    assert set(neighbour.refused) >= ORDERS | NODES
    assert neighbour.refused.count(WORK) == 2  # the SuperLink's, and the SuperNode's
    assert neighbour.hosts == {HOST}
    for app in ("flwr-serverapp", "flwr-clientapp"):
        assert any(app in command for command in neighbour.commands)
    assert not [command for command in neighbour.commands if SECRET.search(command)]


@pytest.mark.thorough
@pytest.mark.simulation
def test_the_cluster_of_a_sweep_obeys_its_owner_only():
    with cluster(None) as ray:
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        neighbour = Neighbour()
        neighbour.attack()
    assert neighbour.obeyed == []
    assert set(neighbour.refused) >= RAY


def test_a_superlink_takes_its_owners_token_only(tmp_path):
    make_tokens(tmp_path, "127.0.0.1:9000")
    plugin = flower_process.OwnerOnly(owner_token(tmp_path))
    assert plugin.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, owner_token(tmp_path))])[0]
    for metadata in ([], [(ACCESS_TOKEN_KEY, "")], [(ACCESS_TOKEN_KEY, "another")], [(ACCESS_TOKEN_KEY, "é")]):
        assert plugin.validate_tokens_in_metadata(metadata) == (False, None)


def test_flowers_command_finds_the_token_in_its_home(tmp_path):
    make_tokens(tmp_path, "127.0.0.1:9000")
    store = FileCredentialStore(tmp_path / "credentials.yaml")
    keys = [key % "127.0.0.1:9000" for key in (AUTHN_TYPE_STORE_KEY, ACCESS_TOKEN_STORE_KEY, REFRESH_TOKEN_STORE_KEY)]
    assert [store.get(key) for key in keys] == [b"oidc", owner_token(tmp_path).encode(), b"none"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_commands_of_ones_own_deployment_are_closed_in_a_folder_of_their_own(tmp_path, monkeypatch):
    started = []
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    options = ["--enable-supernode-auth", "--ssl-ca-certfile", "ca.crt", "--ssl-keyfile", "link.key"]
    link = ["flower-superlink", "--address", "link:8443", "--host", "0.0.0.0", "--port", "8443", *options]
    for _ in range(2):  # the second start keeps the tokens
        monkeypatch.setattr(sys, "argv", ["closed", *link])
        closed.main()
    home = tmp_path / "home"
    (_, command, env), again = started
    assert again == started[0]
    assert command[1:] == ["-m", flower_process.__name__, "flower-superlink", "flower-superlink-executor"]
    assert env["FLWR_HOME"] == str(home)
    told, executor = (json.loads((home / f"{name}.json").read_text()) for name in command[3:])
    secret = ["--superexec-auth-secret-file", str(home / "keys" / "executor")]
    assert told[-4:] == ["--isolation", "process", *secret]
    assert {*options, "0.0.0.0", "8443"} <= {*told}
    asks = ["--runtime-api-address", "127.0.0.1:8443", "--root-certificates", "ca.crt"]
    assert executor == ["flower-superexec", *asks, *secret]
    store = FileCredentialStore(home / "credentials.yaml")
    assert store.get(ACCESS_TOKEN_STORE_KEY % "link:8443") == owner_token(home).encode()


def test_the_commands_of_ones_own_deployment_want_a_folder(monkeypatch, capsys):
    monkeypatch.delenv("FLWR_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["closed", "flower-superlink"])
    with pytest.raises(SystemExit):
        closed.main()
    assert "FLWR_HOME: must name a folder" in capsys.readouterr().err


def test_an_app_gets_its_token_in_a_file_without_a_name(tmp_path, monkeypatch):
    app = tmp_path / "app"
    app.write_text(f'#!/bin/sh\ncd {tmp_path}\necho "$@" > told\ncat "$4" > part\nmv part token\n')
    app.chmod(0o700)
    monkeypatch.setattr(flower_process, "TASK_TYPE_TO_COMMAND", {TaskType.CLIENT_APP: str(app)})
    spec = ExecutionSpec(TaskType.CLIENT_APP, "127.0.0.1:9000", "a token", False, "ca.crt", False, 1, False, 1)
    flower_process.TokensInFiles().launch(spec)
    deadline = time.monotonic() + 30
    while not (tmp_path / "token").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "token").read_text() == "a token"
    told = (tmp_path / "told").read_text()
    assert "a token" not in told
    assert told.startswith("--runtime-api-address 127.0.0.1:9000 --token-file /dev/fd/")
    assert "--root-certificates ca.crt" in told


def test_a_part_of_flower_that_is_no_longer_there_is_not_replaced():
    with pytest.raises(AttributeError, match="load_control_authn_plugin"):
        flower_process._replace(ssl, "load_control_authn_plugin", None)


def test_a_superlink_that_obeys_strangers_is_refused(tmp_path):
    files = make_server(tmp_path / "keys", HOST)

    class Obedient(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer((HOST, 0), Obedient)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.handle_request, daemon=True).start()
    stranger = superlink._Stranger(f"{HOST}:{server.server_port}", files.authority)
    with server, pytest.raises(LaserError, match=r"must refuse strangers, got 200 for /v1/control/list-runs"):
        stranger.refuse_obedience()


def test_a_cluster_of_ray_keeps_the_users_token_and_one_of_its_own_else():
    assert own_ray({"RAY_AUTH_TOKEN": "mine"})["RAY_AUTH_TOKEN"] == "mine"
    assert own_ray({}) == own_ray({})
    assert len(own_ray({})["RAY_AUTH_TOKEN"]) == 64


def test_a_private_folder_is_this_users_alone_and_goes():
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
