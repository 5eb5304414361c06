"""A Flower node: which clients it hosts, what they remember, how it answers a broadcast."""

from collections.abc import Callable

from flwr.app import Context, Message

from laser_fl.blocks import Tensors
from laser_fl.errors import ConfigError
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.streams import Device
from laser_fl.wire import read_broadcast, read_tensors, write_tensors, write_uplink

MEMORY = "memory"

Respond = Callable[[Broadcast, Tensors], tuple[Uplink, Tensors]]


def hosted(node: int, nodes: int, clients: int) -> range:
    """The clients of a node, an equal contiguous share: all c with ⌊c · nodes / clients⌋ = node."""
    return range(-(-node * clients // nodes), -(-(node + 1) * clients // nodes))


def hosted_here(context: Context, clients: int) -> range:
    """The clients of this node, by its ``partition-id`` and ``num-partitions``. Raises ConfigError without them."""
    try:
        node, nodes = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    except KeyError as missing:
        raise ConfigError(f"node-config: must have partition-id and num-partitions, lacks {missing}") from None
    return hosted(node, nodes, clients)


def reply(message: Message, context: Context, respond: Respond, device: Device = "cpu") -> Message:
    """Answer a broadcast; the clients' memory is kept in the node's context between rounds.

    respond: (broadcast, memory) -> (uplink, next memory), with a leading clients axis on the
        tensors of the uplink and of the memory. `laser_fl.pipeline.send` makes both from
        gradients.
    """
    broadcast = read_broadcast(message.content, device)
    stored = context.state.array_records.get(MEMORY)
    memory = read_tensors(stored, device) if stored is not None else {}
    uplink, memory = respond(broadcast, memory)
    if memory:
        context.state[MEMORY] = write_tensors(memory)
    clients = hosted_here(context, broadcast.context.clients)
    return Message(write_uplink(uplink, clients), reply_to=message)
