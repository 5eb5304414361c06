"""A Flower node: which clients it hosts, what they remember, how it answers a broadcast."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from filelock import FileLock
from flwr.app import Context, Message

from laser_fl.blocks import Tensors
from laser_fl.errors import ConfigError
from laser_fl.federated.client import Host, Respond
from laser_fl.federated.replica import OutOfStepError
from laser_fl.rng import Device
from laser_fl.transport.client_state import ask_for_everything, forget, put_held, side_of, take_held
from laser_fl.transport.messages import begins, board_of, clients_of, read_broadcast
from laser_fl.transport.replies import write_reply
from laser_fl.transport.shared_memory import NotHereError, Slot, is_board, write


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
    in the context itself. Files have two sides that take turns, so that a node that is killed at work finds what it
    held before. A node that cannot see a file it was told of, or has missed what it needs to follow
    the server, asks for everything. The broadcast's tensors may be the files', and are only to be read.

    respond: (broadcast, memory) -> (uplink, next memory), with a leading axis on the tensors of
        the memory, over the clients of this node that take part in the round. It is not called
        where none does, and may change the memory in place. `laser_fl.pipeline.send` makes both from gradients.

    Raises:
        WireError: the message is not a broadcast.
    """
    told, state = message.content, context.state
    clients = hosted_here(context, clients_of(told))
    if begins(told):
        forget(state)
    board = board_of(told)
    # One process at a time works for a node: another may still be at what is late by now.
    with FileLock(board / f"node-{context.node_id}") if board and is_board(board) else nullcontext():
        return _answer(message, context, respond, device, clients, board)


def _answer(
    message: Message, context: Context, respond: Respond, device: Device, clients: range, board: Path | None
) -> Message:
    told, state, side = message.content, context.state, side_of(context.state)
    show = None if board is None else partial(_show, board, f"{context.node_id}-{side}")
    try:
        broadcast = read_broadcast(told, device)
        node, nodes = _place(context)
        held = take_held(told, state, broadcast, clients, device, show)
        folder = str(context.node_config.get("checkpoint-dir", ""))
        host = Host(clients, respond, held, f"node-{node}-of-{nodes}", folder, device)
        said = host.answer(broadcast)
    except (NotHereError, OutOfStepError) as reason:
        elsewhere = isinstance(reason, NotHereError)
        return Message(ask_for_everything(state, elsewhere), reply_to=message)
    records = write_reply(said, clients, show)
    put_held(state, host.held, records, side, show)
    return Message(records, reply_to=message)


def _show(board: Path, owner: str, name: str, tensors: Tensors) -> Slot:
    """Write tensors into this node's file of that name."""
    slot = Slot.fitting(board / f"{name}-{owner}", tensors)
    write(slot, tensors)
    return slot
