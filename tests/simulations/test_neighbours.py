"""Another user of the machine, who can connect to what a run opens and list command lines, gains nothing by it."""

import re
import ssl
import stat
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.constant import ACCESS_TOKEN_STORE_KEY, AUTHN_TYPE_STORE_KEY, REFRESH_TOKEN_STORE_KEY
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.credential_store import FileCredentialStore
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from laser_fl.config import parse
from laser_fl.errors import LaserError
from simulations.cluster import cluster
from simulations.engines import deployment, flower, flower_process, superlink
from simulations.engines.credentials import make_server
from simulations.engines.processes import HOST
from simulations.engines.tokens import make_tokens, owner_token
from simulations.private import own_ray, private_folder

SHORT = {"model": "linear", "clients": 2, "batch-size": 16, "evaluate-every": 1}
SECRET = re.compile(r"[0-9a-f]{64}|--token[ =]|PRIVATE KEY|/keys/(?!\S+\.(crt|pub)\b)")
REFUSALS = {401, 403, 412, 501}  # no token, no right, no listed key, no accounts to log in to
LOGIN = "/v1/control/get-login-details"  # answers that there are no accounts
ORDERS = {"/v1/control/start-run", "/v1/control/list-runs", "/v1/control/stop-run", "/v1/control/stream-logs"}
WORK = "/v1/runtime/acquire-task"
NODES = {"/v1/control/register-node", "/v1/fleet/pull-messages", "a key of one's own", "its activation"}
OF_RAY = {  # by service, orders that execute code, read or write what the run has, or end it
    "CoreWorkerService": ["PushTask", "KillActor", "GetCoreWorkerStats", "Exit"],
    "NodeManagerService": ["RequestWorkerLease", "ShutdownRaylet", "GetNodeStats"],
    "ObjectManagerService": ["Pull", "Push", "FreeObjects"],
    "InternalKVGcsService": ["InternalKVKeys", "InternalKVPut"],
    "JobInfoGcsService": ["GetAllJobInfo", "AddJob"],
    "ActorInfoGcsService": ["GetAllActorInfo", "CreateActor", "KillActorViaGcs"],
}
RAY = {f"/ray.rpc.{service}/{orders[0]}" for service, orders in OF_RAY.items()} | {"Ray's runtime environment"}


class Neighbour:
    """Reaches all to which the processes below this one listen, as a stranger, and lists their command lines."""

    def __init__(self):
        self.commands = set()
        self.hosts = set()
        self.obeyed = []
        self.refused = []

    @contextmanager
    def watching(self):
        over = threading.Event()

        def watch():
            while not over.wait(0.1):
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):
                        self.commands.add(" ".join(process.cmdline()))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def attack(self):
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                found += [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        for address in set(found):
            host = address.ip.removeprefix("::ffff:")
            self.hosts.add(host)
            self._order(f"{HOST if host in ('::', '0.0.0.0') else host}:{address.port}")

    def _order(self, address):
        for scheme in ("https", "http"):
            with suppress(httpx.TransportError):
                routes = httpx.get(f"{scheme}://{address}/openapi.json", verify=False, trust_env=False)
                if routes.is_success:
                    self._order_flower(f"{scheme}://{address}", routes.json()["paths"])
                else:
                    self._order_rays_agent(f"{scheme}://{address}")
                return
        self._order_ray(address)

    def _order_flower(self, url, routes):
        version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
        context = ssl._create_unverified_context()
        kind = RegisterNodeFleetRequest  # an empty one is an empty request of any other kind, too
        with ProtobufClient(url, verify=context, interceptors=[version]) as client:
            for path in (path for path, methods in routes.items() if "post" in methods):
                with self._noting(path):
                    client._unary_unary(path=path, rpc_method="", request=kind(), response_type=kind)
        if "/v1/fleet/register-node" not in routes:
            return
        key = ec.generate_private_key(ec.SECP384R1())
        public = public_key_to_bytes(key.public_key())
        signs = NodeAuthHttpInterceptor(key, key.public_key())
        with FleetHttpClient(url, verify=context, interceptors=[version, signs]) as node:
            with self._noting("a key of one's own"):
                node.RegisterNode(RegisterNodeFleetRequest(public_key=public))
            with self._noting("its activation"):
                node.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30))

    def _order_rays_agent(self, url):
        with self._noting("Ray's runtime environment"):
            httpx.post(f"{url}/get_or_create_runtime_env", content=b"", trust_env=False).raise_for_status()

    def _order_ray(self, address):
        with grpc.insecure_channel(address) as channel:
            for service, orders in OF_RAY.items():
                for order in orders:
                    with self._noting(f"/ray.rpc.{service}/{order}"):
                        channel.unary_unary(f"/ray.rpc.{service}/{order}")(b"", timeout=5)

    @contextmanager
    def _noting(self, order):
        """Note whether an order is obeyed; orders of which its receiver knows nothing are neither."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            refused = error.response.status_code in REFUSALS
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE):
                return
            refused = error.code() == grpc.StatusCode.UNAUTHENTICATED
        else:
            refused = False
        (self.refused if refused else self.obeyed).append(order)


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
