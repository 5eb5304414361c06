"""The replies of nodes to an exchange, and the faults of the clients of the others."""

from collections.abc import Callable, Iterable
from functools import partial
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log

from laser_fl.errors import WireError
from laser_fl.federated.validation import Fault, Kind, Reply
from laser_fl.rng import Device
from laser_fl.transport.node_files import NodeFiles
from laser_fl.transport.replies import FILE, hosted_by, read_reply
from laser_fl.transport.shared_memory import UnreachableError
from strategies.claims import ClaimError, Claims


def gather(
    messages: Iterable[Message],
    sender: Callable[[Message], int],
    claims: Claims,
    clients: range,
    files: NodeFiles,
    most: Callable[[range], int],
    device: Device = "cpu",
) -> tuple[list[Reply], list[Fault]]:
    """Return the replies of nodes, and the faults of clients without a valid one.

    Args:
        messages: from the nodes, errors included.
        sender: returns the node that a message is of.
        claims: of the nodes to clients; those of these messages are settled.
        clients: of the run.
        files: of the nodes, in which tensors may lie.
        most: returns the number of bytes that a reply of some clients may have in a file.
        device: where signals and buffers are wanted.
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
            hosted = hosted_by(message.content)
            claims.check(node, hosted)
            reply = read_reply(message.content, device, partial(files.read, node, FILE, most(hosted)))
            claims.settle(node, hosted)
            files.note(node, message.content)
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
