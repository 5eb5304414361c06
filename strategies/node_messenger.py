"""Messages to nodes and replies from them, through any grid.

A reply is the work of a stranger. It belongs to the node whose message it was pulled for, its metadata are not looked
at, and whatever it makes raise is an error of its node's.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from logging import WARNING

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

from laser_fl.errors import TrainingError, brief
from laser_fl.transport.client_state import asks_for_everything

POLL_SECONDS = 0.1  # between looks for nodes
LOOK_SECONDS = 1.0  # between looks for replies, where the grid does not say: each is a request per node
NODES_AT_A_LOOK = 16  # while more are to reply, looks are rarer in proportion: as many pulls per second
OWN_FAULT = (  # of a node, which would fail again, or make the exchange wait again
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.MESSAGE_UNAVAILABLE,
)
MALFORMED = -1  # code of the error that stands for a message that is no reply; Flower's are not negative

# Returns the message in full for a node that asked for everything: (its message, its request) -> another one.
InFull = Callable[[Message, RecordDict], Message]


def carry(grid: Grid, messages: Iterable[Message], timeout: float, in_full: InFull) -> list[Message]:
    """Send the messages of an exchange, and wait for their replies.

    A node is asked once more, while the others still work, if a process of it died instead of replying (an actor, a
    client's app) and the node is still there, and if it asked for everything. Another process of it answers, and no
    reply that exists already is computed twice.

    Args:
        grid: Flower's, with the nodes.
        messages: to nodes, one to each.
        timeout: of all requests together, seconds.
        in_full: makes the message for a node that asked for everything.

    Returns:
        The replies that came, errors included, in their order; `metadata.src_node_id` is the node that was asked.
    """
    deadline = time.monotonic() + timeout
    exchange = _Exchange(grid, in_full)
    exchange.push(messages)
    while True:
        exchange.look()
        left = deadline - time.monotonic()
        if not exchange.pending or left <= 0:
            return exchange.replies
        time.sleep(min(_pause(grid, len(exchange.pending)), left))


class _Exchange:
    """The messages of an exchange that are on their way, and the replies so far.

    pending: by the number under which the reply to a message is pulled.
    """

    def __init__(self, grid: Grid, in_full: InFull) -> None:
        self.pending: dict[str, Message] = {}
        self.replies: list[Message] = []
        self._grid, self._in_full = grid, in_full
        self._died: set[int] = set()
        self._asked: set[int] = set()

    def push(self, messages: Iterable[Message]) -> None:
        """Send messages."""
        messages = list(messages)
        numbers = set(self._grid.push_messages(messages)) if messages else set()
        self.pending |= {number: m for m in messages if (number := m.metadata.message_id) in numbers}

    def look(self) -> None:
        """Take the replies that have come, and ask again where there is a reason."""
        again: list[Message] = []
        for number, sent in list(self.pending.items()):
            with self._blamed_on(sent, number):
                # One by one: a reply that cannot be unpacked would take those that are pulled with it along.
                for reply in list(self._grid.pull_messages([number]))[:1]:
                    del self.pending[number]
                    again += self._take(sent, reply)
        self.push(again)

    def _take(self, sent: Message, reply: Message) -> list[Message]:
        """Keep a reply, or return the message that its node gets instead."""
        node = sent.metadata.dst_node_id
        if reply.has_error():
            if self._is_back(node, reply.error):
                log(WARNING, "a process of node %s died: it is asked again", node)
                self._died.add(node)
                return [addressed(sent.content, node)]
            error = Error(reply.error.code, brief(" ".join(str(reply.error.reason or "")[:1000].split())))
            self.replies.append(Message(error, reply_to=sent))
            return []
        if asks_for_everything(reply.content) and node not in self._asked:
            self._asked.add(node)
            return [self._in_full(sent, reply.content)]
        self.replies.append(Message(reply.content, reply_to=sent))
        return []

    def _is_back(self, node: int, error: Error) -> bool:
        """Return True where a node that has not been asked again yet lost a process, and is there itself."""
        return error.code not in OWN_FAULT and node not in self._died and node in self._grid.get_node_ids()

    @contextmanager
    def _blamed_on(self, sent: Message, number: str) -> Iterator[None]:
        """Turn any error in the block into one of the node to which `sent` was sent."""
        try:
            yield
        except Exception as error:
            list(self._grid.get_node_ids())  # which raises where the grid itself has failed
            self.pending.pop(number, None)
            reason = f"{type(error).__name__}: {brief(str(error))}"
            log(
                WARNING,
                "node %s sent no reply, but a message that cannot be read: %s",
                sent.metadata.dst_node_id,
                reason,
            )
            self.replies.append(Message(Error(MALFORMED, reason), reply_to=sent))


def addressed(content: RecordDict, node: int) -> Message:
    """Return a message that asks a node to train."""
    return Message(content, dst_node_id=node, message_type=MessageType.TRAIN)


def _pause(grid: Grid, pending: int) -> float:
    """Return the seconds until the next look for replies of `pending` nodes."""
    seconds: float = getattr(grid, "pull_interval", LOOK_SECONDS)
    return seconds * max(1.0, pending / NODES_AT_A_LOOK)


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
