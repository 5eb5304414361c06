"""The replies of nodes to an exchange, and the faults of the clients of the others."""

from collections.abc import Callable, Iterable
from logging import WARNING
from pathlib import Path

from flwr.app import Message
from flwr.common.logger import log

from laser_fl.errors import WireError
from laser_fl.federated.validation import Fault, Kind, Reply
from laser_fl.rng import Device
from laser_fl.transport.replies import hosted_by, read_reply
from laser_fl.transport.shared_memory import UnreachableError
from strategies.claims import ClaimError, Claims


def gather(
    messages: Iterable[Message],
    sender: Callable[[Message], int],
    claims: Claims,
    clients: range,
    device: Device = "cpu",
    shared_memory: Path | None = None,
) -> tuple[list[Reply], list[Fault]]:
    """Return the replies of nodes, and the faults of clients without a valid one.

    Args:
        messages: from the nodes, errors included.
        sender: returns the node that a message is of.
        claims: of the nodes to clients; those of these messages are settled.
        clients: of the run.
        device: where signals and buffers are wanted.
        shared_memory: the only folder in which tensors may lie; None: any shared memory.
    """
    received: list[Reply] = []
    claimed: dict[int, range] = {}
    failed: dict[int, tuple[Kind, str]] = {node: ("twice", why) for node, why in claims.refused.items()}
    for message in messages:
        node = sender(message)
        if message.has_error():
            failed[node] = "raised", f"its node failed: {' '.join(str(message.error.reason).split())[:300]}"
            continue
        try:
            hosted, reply = hosted_by(message.content), read_reply(message.content, device, shared_memory)
            claims.settle(node, hosted)
            received.append(reply)
        except ClaimError as error:
            log(WARNING, "%s", error)
            failed[node], claimed[node] = ("twice", str(error)), hosted
        except (WireError, UnreachableError) as error:
            failed[node] = "malformed", str(error)
    answered = {client for reply in received for client in reply.clients}
    faults = []
    for node, why in failed.items():
        theirs = {*claims.of(node, clients), *filter(claimed.get(node, ()).__contains__, clients)}
        faults += [Fault(client, *why) for client in sorted(theirs - answered)]
    return received, faults
