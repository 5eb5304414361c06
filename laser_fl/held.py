"""What a host's clients hold between exchanges, and how it lies in a checkpoint."""

from dataclasses import dataclass, field
from typing import Any

from laser_fl.blocks import Tensors
from laser_fl.checkpoints import CheckpointError, Numbers
from laser_fl.errors import brief
from laser_fl.pipeline import Uplink
from laser_fl.receipts import flatten, unflatten
from laser_fl.replica import Follower
from laser_fl.replies import Reply
from laser_fl.streams import Device

TREES = ("memory", "copies", "signals", "buffers", "kept")
REPORTS = ("losses", "signal_norms", "gradient_norms")


@dataclass(frozen=True)
class Held:
    """What a host's clients hold, a row per client; the host owns it and changes it in place.

    memory: of error feedback, per block; empty at first, and for schemes without.
    copies: each client's own model, where the server broadcasts updates; else empty.
    follower: of all the host's clients, where the server broadcasts what it heard; it is not in checkpoints.
    last: what they said last; it is said again where the server asks again, and goes back into the memory where
        the server has not taken it.
    heard: the last round whose broadcast the copies have followed.
    """

    memory: Tensors = field(default_factory=dict)
    copies: Tensors = field(default_factory=dict)
    follower: Follower | None = None
    last: Reply | None = None
    heard: int = -1


def to_checkpoint(held: Held) -> tuple[Numbers, Tensors]:
    """What is held after an answer, as numbers and tensors."""
    assert held.last is not None
    uplink = held.last.uplink
    pending, kept = flatten(uplink.pending)
    trees = dict(zip(TREES, (held.memory, held.copies, uplink.signals, uplink.buffers, kept), strict=True))
    tensors = {f"{tree}/{name}": tensor for tree, named in trees.items() for name, tensor in named.items()}
    last, clients = held.last.exchange, held.last.clients
    numbers = {"exchange": last, "clients": clients, "pending": pending, "heard": held.heard}
    return numbers, tensors | {name: getattr(uplink, name) for name in REPORTS}


def from_checkpoint(numbers: Numbers, tensors: Tensors, device: Device = "cpu") -> Held:
    """Undo `to_checkpoint`, onto `device`. Raises CheckpointError."""
    trees: dict[str, Tensors] = {tree: {} for tree in TREES}
    for key, tensor in tensors.items():
        tree, _, name = key.partition("/")
        if tree in trees:
            trees[tree][name] = tensor.to(device)
    try:
        reports: dict[str, Any] = {name: tensors[name] for name in REPORTS}
        pending = unflatten(numbers["pending"], trees["kept"])
        uplink = Uplink(trees["signals"], buffers=trees["buffers"], pending=pending, **reports)
        last, heard = Reply(int(numbers["exchange"]), tuple(numbers["clients"]), uplink), int(numbers["heard"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint: does not hold what clients hold ({brief(str(error))})") from None
    return Held(trees["memory"], trees["copies"], last=last, heard=heard)
