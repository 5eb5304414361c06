"""A neighbour: another user of the machine, who has what everybody has."""

import ssl
import threading
from contextlib import contextmanager, suppress

import grpc
import httpx
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from simulations.engines.processes import HOST

REFUSALS = {401, 403, 412, 501}  # no token, no right, no listed key, no accounts to log in to
OF_RAY = {  # by service, orders that execute code, read or write what the run has, or end it
    "CoreWorkerService": ["PushTask", "KillActor", "GetCoreWorkerStats", "Exit"],
    "NodeManagerService": ["RequestWorkerLease", "ShutdownRaylet", "GetNodeStats"],
    "ObjectManagerService": ["Pull", "Push", "FreeObjects"],
    "InternalKVGcsService": ["InternalKVKeys", "InternalKVPut"],
    "JobInfoGcsService": ["GetAllJobInfo", "AddJob"],
    "ActorInfoGcsService": ["GetAllActorInfo", "CreateActor", "KillActorViaGcs"],
}


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
