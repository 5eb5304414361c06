"""A Flower node: which clients it hosts, what they remember, how it answers a broadcast."""

from flwr.app import Context, Message

from laser_fl.errors import ConfigError
from laser_fl.host import Held, Respond, answer
from laser_fl.streams import Device
from laser_fl.wire import read_broadcast, read_tensors, write_tensors, write_uplink

MEMORY, COPIES = "memory", "copies"


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
    """Answer a broadcast; what the clients hold between rounds is kept in the node's context.

    respond: (broadcast, memory) -> (uplink, next memory), with a leading axis on the tensors of
        the memory, over the clients of this node that take part in the round. It is not called
        where none does. `laser_fl.pipeline.send` makes both from gradients.
    """
    broadcast = read_broadcast(message.content, device)
    clients = hosted_here(context, broadcast.context.clients)
    uplink, held = answer(broadcast, _load(context, device), clients, respond)
    _store(context, held)
    return Message(write_uplink(uplink, broadcast.of(clients).context.present), reply_to=message)


def _load(context: Context, device: Device) -> Held:
    stored = context.state.array_records
    return Held(*(read_tensors(stored[key], device) if key in stored else {} for key in (MEMORY, COPIES)))


def _store(context: Context, held: Held) -> None:
    for key, tensors in ((MEMORY, held.memory), (COPIES, held.copies)):
        if tensors:
            context.state[key] = write_tensors(tensors)
