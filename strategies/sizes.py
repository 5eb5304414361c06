"""The bytes that a run may put into files, and a node into its own: a file that claims more is not read."""

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.federated.server import Server
from laser_fl.transport.shared_memory import ALIGNMENT

# Times the model that a client may have saved: memory, copy, last signals, and approximations, whose indices may take
# twice as much as their values. Each is of a few tensors per block.
OF_A_CLIENT, PARTS = 6, 64


def room_of(config: RunConfig, nodes: int, weights: Tensors) -> int:
    """Bound the bytes that a run may put into files: model, buffers, shared state, client state, and signals."""
    of_clients = 3 + (config.downlink == "update")  # memory, signals and their approximations, copies
    of_nodes = 4 if config.downlink == "compressed" else 0  # a replica with its optimizer's state
    of_server = 3 + 3 + of_nodes  # in first messages, and in full
    return (of_server + 2 * (of_clients * config.clients + of_nodes * nodes)) * _bytes_of(weights)


def largest_state(server: Server, clients: int) -> int:
    """Bound the bytes of the client state of a node with so many clients."""
    model = server.global_model
    each = OF_A_CLIENT * _bytes_of(model.weights) + _bytes_of(model.buffers)
    return clients * each + ALIGNMENT * PARTS * (len(model.weights) + len(model.buffers))


def _bytes_of(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
