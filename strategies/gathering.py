"""The replies of nodes to an exchange, and the faults of the clients of the others."""

from collections.abc import Iterable
from functools import partial
from logging import WARNING

from flwr.app import Error, Message
from flwr.common.logger import log

from laser_fl.errors import LaserError, WireError, brief
from laser_fl.federated.server import Server
from laser_fl.federated.validation import Fault, Kind, Reply
from laser_fl.rng import Device
from laser_fl.transport.node_files import NodeFiles
from laser_fl.transport.replies import FILE, ReplyForm, read_form, read_reply
from strategies.claims import ClaimError, Claims
from strategies.node_messenger import MALFORMED


class FormError(LaserError):
    """A reply is not of the form that the exchange's replies have."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Kind = kind


def gather(
    messages: Iterable[Message],
    server: Server,
    claims: Claims,
    files: NodeFiles,
    device: Device = "cpu",
) -> tuple[list[Reply], list[Fault]]:
    """Return the replies of nodes, and the faults of clients without a valid one.

    Whatever a message makes raise is a fault of its node's clients.

    Args:
        messages: from the nodes, errors included.
        server: of the run, which awaits the replies.
        claims: of the nodes to clients; those of these messages are settled.
        files: of the nodes, in which tensors may lie.
        device: where signals and buffers are wanted.
    """
    clients = range(server.config.clients)
    received: list[Reply] = []
    claimed: dict[int, range] = {}
    failed: dict[int, tuple[Kind, str]] = {node: ("twice", why) for node, why in claims.refused.items()}
    for message in messages:
        node = message.metadata.src_node_id
        try:
            if message.has_error():
                failed[node] = _failure(message.error)
                continue
            form = read_form(message.content, len(clients))
            claims.check(node, form.hosted)
            _refuse_misfit(form, server)
            reply = read_reply(message.content, device, partial(files.read, node, FILE))
            claims.settle(node, form.hosted)
            files.note(node, message.content)
            received.append(reply)
        except ClaimError as error:
            log(WARNING, "%s", error)
            failed[node], claimed[node] = ("twice", str(error)), form.hosted
        except FormError as error:
            failed[node] = error.kind, str(error)
        except LaserError as error:
            failed[node] = "malformed", str(error)
        except Exception as error:
            failed[node] = "malformed", f"reply: {type(error).__name__}: {brief(str(error))}"
            log(WARNING, "the message of node %s cannot be read: %s", node, failed[node][1])
    answered = {client for reply in received for client in reply.clients}
    faults = []
    for node, why in failed.items():
        theirs = {*claims.of(node, clients), *filter(claimed.get(node, ()).__contains__, clients)}
        faults += [Fault(client, *why) for client in sorted(theirs - answered)]
    return received, faults


def _failure(error: Error) -> tuple[Kind, str]:
    """Return the fault of a node that failed, or sent no reply."""
    if error.code == MALFORMED:
        return "malformed", f"its node sent no reply: {error.reason}"
    return "raised", f"its node failed: {brief(' '.join(str(error.reason).split()))}"


def _refuse_misfit(form: ReplyForm, server: Server) -> None:
    """Raise FormError where a reply cannot be one to this exchange: none of its tensors is read."""
    try:
        wrong = server.fault_in_form(form.exchange, form.clients, form.parts)
    except WireError as error:
        wrong = "malformed", str(error)
    if wrong is not None:
        raise FormError(*wrong)
