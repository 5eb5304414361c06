"""Acknowledgements between server and clients, so that no update is lost and none counts twice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.channels.exchange import InFlight
from laser_fl.schemes.approximation import (
    Approximation,
    Dense,
    LowRank,
    OwnIndices,
    SharedIndices,
    SubspaceAndColumns,
)

KINDS: dict[str, type[Approximation]] = {
    kind.__name__: kind for kind in (Dense, LowRank, SubspaceAndColumns, SharedIndices, OwnIndices)
}


@dataclass(frozen=True)
class Acknowledgements:
    """The number of the current exchange, and the earlier ones that the server has accepted.

    exchange: counted from 0 over the run; one that is repeated keeps its number.
    last_acknowledged: for each client of the run, the last exchange whose reply the server accepted; -1 before that.
    unsent: by client whose signals were clipped in the exchange before: the share of each block's approximation that
        did not go out, and belongs back into its memory.
    since: the first exchange of this server; above 0 where it goes on from a checkpoint.
    save: True where client groups must save a snapshot of their client state after this exchange. run: the name under
        which each group finds these snapshots again, in a folder of its own choice.
    """

    exchange: int = 0
    last_acknowledged: tuple[int, ...] = ()
    since: int = 0
    unsent: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    save: bool = False
    run: str = ""

    def acknowledges(self, client: int, exchange: int) -> bool:
        """Return True where the server accepted a reply of `client` to `exchange`, or to a later one."""
        return client < len(self.last_acknowledged) and self.last_acknowledged[client] >= exchange

    def unsent_by(self, client: int, exchange: int) -> Mapping[str, float] | None:
        """Return the share of each block's approximation in `exchange` that `client` has not sent; None: all of all.

        A missing share is 0. A node that has missed the broadcast after its exchange does not learn of clipped signals.
        """
        if not self.acknowledges(client, exchange):
            return None
        return self.unsent.get(client, {}) if exchange == self.exchange - 1 else {}


_Layout = list[tuple[tuple[int, ...], list[tuple[str, str, tuple[str, tuple[int, ...], bool] | None]]]]
_LAYOUT = TypeAdapter(_Layout)


def flatten(in_flight: Sequence[InFlight]) -> tuple[str, Tensors]:
    """Return the approximations in flight as text, and as tensors by name."""
    layout: _Layout = []
    tensors: Tensors = {}
    for index, one in enumerate(in_flight):
        kinds = []
        for name, part in one.approximations.items():
            fields = vars(part)
            block = next((value for value in fields.values() if isinstance(value, Block)), None)
            whole = None if block is None else (block.name, block.shape, block.transposed)
            kinds.append((name, type(part).__name__, whole))
            tensors |= {f"{index}/{key}/{name}": value for key, value in fields.items() if isinstance(value, Tensor)}
        layout.append((one.clients, kinds))
    return json.dumps(layout), tensors


def unflatten(text: str, tensors: Tensors) -> tuple[InFlight, ...]:
    """Undo `flatten`. Raises ValueError, KeyError or TypeError where text and tensors do not fit together."""
    in_flight = []
    for index, (clients, kinds) in enumerate(_LAYOUT.validate_json(text)):
        approximations = {}
        for name, kind, block in kinds:
            parts = {key.split("/", 2)[1]: t for key, t in tensors.items() if _is_of(key, index, name)}
            approximations[name] = KINDS[kind](**parts | ({"block": Block(*block)} if block else {}))
        in_flight.append(InFlight(clients, approximations))
    return tuple(in_flight)


def _is_of(key: str, index: int, name: str) -> bool:
    return key.startswith(f"{index}/") and key.split("/", 2)[2] == name
