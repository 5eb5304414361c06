"""A Flower node: which clients it hosts, what they remember, how it answers a broadcast."""

from functools import partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.errors import ConfigError
from laser_fl.host import Held, Respond, answer, follow
from laser_fl.mapped import NotHereError, Slot, write
from laser_fl.replica import Follower, OutOfStepError
from laser_fl.streams import Device
from laser_fl.wire import (
    COPIES,
    MEMORY,
    NUMBERS,
    ask_for_everything,
    begins,
    board_of,
    clients_of,
    forget,
    put_tensors,
    read_broadcast,
    read_state,
    take_tensors,
    write_state,
    write_uplink,
)


def hosted(node: int, nodes: int, clients: int) -> range:
    """The clients of a node, an equal contiguous share: all c with ⌊c · nodes / clients⌋ = node."""
    return range(-(-node * clients // nodes), -(-(node + 1) * clients // nodes))


def hosted_here(context: Context, clients: int) -> range:
    """The clients of this node, by its ``partition-id`` and ``num-partitions``. Raises ConfigError without them."""
    node, nodes = _place(context)
    return hosted(node, nodes, clients)


def _place(context: Context) -> tuple[int, int]:
    """(partition-id, num-partitions)."""
    try:
        node, nodes = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    except KeyError as missing:
        raise ConfigError(f"node-config: must have partition-id and num-partitions, lacks {missing}") from None
    return node, nodes


def reply(message: Message, context: Context, respond: Respond, device: Device = "cpu") -> Message:
    """Answer a broadcast; what the clients hold between rounds is kept for the node.

    On the server's host it lies in mapped files, and the node's context says where; elsewhere
    in the context itself. A node that cannot see a file it was told of, or has missed what it needs to follow
    the server, asks for everything. The broadcast's tensors may be the files', and are only to be read.

    respond: (broadcast, memory) -> (uplink, next memory), with a leading axis on the tensors of
        the memory, over the clients of this node that take part in the round. It is not called
        where none does, and may change the memory in place. `laser_fl.pipeline.send` makes both from gradients.
    """
    state = context.state
    clients = hosted_here(context, clients_of(message.content))
    if begins(message.content):
        forget(state)
    try:
        broadcast = read_broadcast(message.content, device)
        held = Held(
            memory=_held(MEMORY, message.content, state, device),
            copies=_held(COPIES, message.content, state, device),
            follower=Follower(read_state(state, device)) if NUMBERS in state and broadcast.is_news else None,
        )
        broadcast, held = follow(broadcast, held)
    except (NotHereError, OutOfStepError) as reason:
        elsewhere = isinstance(reason, NotHereError)
        return Message(ask_for_everything(state, elsewhere), reply_to=message)
    uplink, held = answer(broadcast, held, clients, respond)
    board = board_of(message.content)
    show = None if board is None else partial(_show, board, _place(context)[0])
    for key, tensors in ((MEMORY, held.memory), (COPIES, held.copies)):
        if tensors:
            put_tensors(state, key, tensors, show)
    if held.follower is not None:
        write_state(state, held.follower.state, show)
    return Message(write_uplink(uplink, broadcast.of(clients).context.present, show), reply_to=message)


def _held(key: str, told: RecordDict, state: RecordDict, device: Device) -> Tensors:
    """What is held under `key`: as the server sent it back, or as it was put away."""
    for records in (told, state):
        if key in records:
            return take_tensors(records, key, device)
    return {}


def _show(board: Path, node: int, name: str, tensors: Tensors) -> Slot:
    """Write tensors into this node's file of that name."""
    slot = Slot.fitting(board / f"{name}-{node}", tensors)
    write(slot, tensors)
    return slot
