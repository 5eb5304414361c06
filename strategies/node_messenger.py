"""Messages to nodes and replies from them, through any grid."""

import time
from logging import WARNING

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

from laser_fl.errors import TrainingError

POLL_SECONDS = 0.1
OWN_FAULT = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.LOAD_CLIENT_APP_EXCEPTION)  # it would fail again


class NodeMessenger:
    """A messenger that knows which node a reply is of, and asks again where a process died under it."""

    def __init__(self) -> None:
        self._sent: dict[str, int] = {}

    def carry(self, grid: Grid, messages: list[Message], timeout: float) -> list[Message]:
        """Send messages, and wait for their replies.

        If a process died instead of replying (an actor, a client's app), and its node is still there, the node is
        asked once more: another process of it answers, and no reply that exists already is computed twice.

        Args:
            grid: Flower's, with the nodes.
            messages: to nodes.
            timeout: of each of the two requests, seconds.

        Returns:
            The replies that came, errors included.
        """
        replies = self._once(grid, messages, timeout)
        died = {self.sender(reply) for reply in replies if reply.has_error() and _is_not_its_own(reply.error)}
        again = [m for m in messages if m.metadata.dst_node_id in died & set(grid.get_node_ids())]
        if not again:
            return replies
        nodes = {message.metadata.dst_node_id for message in again}
        log(WARNING, "a process of the nodes %s died: they are asked again", sorted(nodes))
        fresh = [addressed(message.content, message.metadata.dst_node_id) for message in again]
        return [reply for reply in replies if self.sender(reply) not in nodes] + self._once(grid, fresh, timeout)

    def sender(self, reply: Message) -> int:
        """Return the node that a reply is of; where a node is gone, the SuperLink replies for it."""
        metadata = reply.metadata
        if reply.has_error():
            return self._sent.get(metadata.reply_to_message_id, metadata.src_node_id)
        return metadata.src_node_id

    def _once(self, grid: Grid, messages: list[Message], timeout: float) -> list[Message]:
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        self._sent = {m.metadata.message_id: m.metadata.dst_node_id for m in messages if m.metadata.message_id}
        return replies


def addressed(content: RecordDict, node: int) -> Message:
    """Return a message that asks a node to train."""
    return Message(content, dst_node_id=node, message_type=MessageType.TRAIN)


def nodes_of(grid: Grid, least: int, timeout: float) -> int:
    """Wait for nodes to register, and count them; simulated ones register together.

    Args:
        grid: Flower's, with the nodes.
        least: number of nodes to wait for.
        timeout: seconds.

    Raises:
        TrainingError: fewer have registered by then.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < least:
        if time.monotonic() > deadline:
            raise TrainingError(f"{len(nodes)} of {least} nodes have registered within {timeout:.0f} seconds")
        time.sleep(POLL_SECONDS)
    return len(nodes)


def _is_not_its_own(error: Error) -> bool:
    return error.code not in OWN_FAULT
