"""A Flower node: the clients that it hosts, their state, and its reply to a broadcast."""

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from clients.own import snapshots
from laser_fl.blocks import Tensors
from laser_fl.errors import ConfigError
from laser_fl.federated.client import ClientGroup, UpdateFn
from laser_fl.federated.replica import OutOfSyncError
from laser_fl.rng import Device
from laser_fl.transport.client_state import (
    ask_for_everything,
    forget,
    load_client_state,
    save_client_state,
    saved_files,
    side_of,
)
from laser_fl.transport.messages import handle_in, read_broadcast, read_numbers
from laser_fl.transport.node_files import file_of
from laser_fl.transport.replies import write_reply
from laser_fl.transport.shared_memory import TensorHandle, UnreachableError, locked, write


def hosted(node: int, nodes: int, clients: int) -> range:
    """Return the clients of a node, an equal contiguous share: all c with ⌊c · nodes / clients⌋ = node.

    Args:
        node: its number, from 0.
        nodes: number of nodes.
        clients: number of clients in the run.
    """
    return range(-(-node * clients // nodes), -(-(node + 1) * clients // nodes))


def hosted_here(context: Context, clients: int) -> range:
    """Return this node's clients by its ``partition-id`` and ``num-partitions``. Raises ConfigError without them."""
    node, nodes = _place(context)
    return hosted(node, nodes, clients)


def _place(context: Context) -> tuple[int, int]:
    """Return (partition-id, num-partitions). Raises ConfigError without them."""
    try:
        node, nodes = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
    except KeyError as missing:
        raise ConfigError(f"node-config: must have partition-id and num-partitions, lacks {missing}") from None
    return node, nodes


def reply(message: Message, context: Context, respond: UpdateFn, device: Device = "cpu") -> Message:
    """Answer a broadcast, and save the client state between rounds for the node.

    On the server's host the client state lies in mapped files, and the node's context has their handles; elsewhere it
    lies in the context itself. Files have two sides that take turns, so that a node that is killed at work finds its
    client state of before. A node that cannot see a file of the broadcast's, or has missed a broadcast that it needs
    to follow the server, asks for everything. The broadcast's tensors may be the files', and are only to be read.

    Args:
        message: with the broadcast.
        context: Flower's, of the node.
        respond: (broadcast, memory) -> (client update, next memory), with a leading axis on the tensors of the memory,
            over the clients of this node that participate in the round. It is not called where none does, and may
            change the memory in place. `laser_fl.pipeline.encode_update` makes both from gradients.
        device: where the clients compute.

    Returns:
        The message for the server: the reply of the clients, or the request for everything.

    Raises:
        ConfigError: the context lacks ``partition-id`` or ``num-partitions``.
        WireError: the message is not a broadcast.
    """
    content, numbers = message.content, read_numbers(message.content)
    place = _place(context)
    if numbers.acknowledgements.exchange == 0:  # of a new run, in which nothing has been saved
        forget(context.state)
    handle = handle_in(content)
    folder = handle.folder if handle is not None and handle.is_here else None  # a node writes into no other one
    # One process at a time works for a node: another may still be at a reply that is late by now.
    with nullcontext() if folder is None else locked(f"{folder}{os.sep}node-{context.node_id}"):
        records = _answer(content, context, respond, device, hosted(*place, numbers.exchange.clients), folder)
    return Message(records, reply_to=message)


def _answer(
    content: RecordDict,
    context: Context,
    respond: UpdateFn,
    device: Device,
    clients: range,
    shared_memory: Path | None,
) -> RecordDict:
    state, side = context.state, side_of(context.state)
    publish = None if shared_memory is None else partial(_publish, shared_memory, context.node_id, side)
    try:
        broadcast = read_broadcast(content, device)
        client_state = load_client_state(content, state, broadcast, clients, device, publish)
        name = "node-{}-of-{}".format(*_place(context))
        group = ClientGroup(clients, respond, client_state, name, snapshots(context), device)
        answer = group.answer(broadcast)
    except (UnreachableError, OutOfSyncError) as reason:
        return ask_for_everything(elsewhere=isinstance(reason, UnreachableError))
    records = write_reply(answer, clients, publish)
    save_client_state(state, group.client_state, records, side, publish)
    records.update(saved_files(state))
    return records


def _publish(shared_memory: Path, node: int, side: int, name: str, tensors: Tensors) -> TensorHandle:
    """Write tensors into this node's file of that name."""
    handle = TensorHandle.fitting(file_of(shared_memory, name, node, side), tensors)
    write(handle, tensors)
    return handle
