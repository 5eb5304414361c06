"""What server and clients say of each other's exchanges, so that nothing is lost and nothing counts twice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from pydantic import TypeAdapter
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.approximation import Everything, FactorAndColumns, Kept, Picked, Product, Sparse, Whole

KINDS: dict[str, type[Kept]] = {
    kind.__name__: kind for kind in (Everything, Whole, Product, FactorAndColumns, Picked, Sparse)
}


@dataclass(frozen=True)
class Receipts:
    """Which exchange this is, and what of earlier ones the server has taken.

    exchange: counted from 0 over the run; one that is repeated keeps its number.
    taken: for each client of the run, the last exchange of which the server took its reply; -1 before that.
    since: the first exchange of this server; above 0 where it goes on from a checkpoint.
    save: whether hosts are to take a snapshot of what their clients hold after this exchange. folder: where to, each
        on its own disk.
    """

    exchange: int = 0
    taken: tuple[int, ...] = ()
    since: int = 0
    save: bool = False
    folder: str = ""

    def has(self, client: int, exchange: int) -> bool:
        """Whether the server took what `client` sent in `exchange`, or later."""
        return client < len(self.taken) and self.taken[client] >= exchange


@dataclass(frozen=True)
class Pending:
    """What signals stand for, as long as their senders do not know whether the server took them.

    clients: the senders, rising; kept: per block, a row for each of them.
    """

    clients: tuple[int, ...]
    kept: Mapping[str, Kept]


_Plan = list[tuple[tuple[int, ...], list[tuple[str, str, tuple[str, tuple[int, ...], bool] | None]]]]
_PLAN = TypeAdapter(_Plan)


def flatten(pending: Sequence[Pending]) -> tuple[str, Tensors]:
    """What is pending as text and tensors by name."""
    plan: _Plan = []
    tensors: Tensors = {}
    for index, one in enumerate(pending):
        kinds = []
        for name, part in one.kept.items():
            fields = vars(part)
            block = next((astuple(value) for value in fields.values() if isinstance(value, Block)), None)
            kinds.append((name, type(part).__name__, block))
            tensors |= {f"{index}/{key}/{name}": value for key, value in fields.items() if isinstance(value, Tensor)}
        plan.append((one.clients, kinds))
    return json.dumps(plan), tensors


def unflatten(text: str, tensors: Tensors) -> tuple[Pending, ...]:
    """Undo `flatten`. Raises ValueError, KeyError or TypeError where they do not fit together."""
    pending = []
    for index, (clients, kinds) in enumerate(_PLAN.validate_json(text)):
        kept = {}
        for name, kind, block in kinds:
            parts = {key.split("/", 2)[1]: t for key, t in tensors.items() if _is_of(key, index, name)}
            kept[name] = KINDS[kind](**parts | ({"block": Block(*block)} if block else {}))
        pending.append(Pending(clients, kept))
    return tuple(pending)


def _is_of(key: str, index: int, name: str) -> bool:
    return key.startswith(f"{index}/") and key.split("/", 2)[2] == name
