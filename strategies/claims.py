"""The clients that each node hosts, by the nodes' own replies."""

import sys
from collections.abc import Collection, Iterable

from laser_fl.errors import LaserError


class ClaimError(LaserError):
    """A node claims clients that another one has."""


class Claims:
    """The claims of nodes to clients.

    The first node that answers for a client has it for as long as it is connected; another that claims it is refused,
    and so is one that claims more clients than any may host.

    refused: nodes that are not asked any more, and why.
    """

    def __init__(self, most: int = sys.maxsize) -> None:
        """Begin without claims. most: number of clients that a node may host."""
        self.refused: dict[int, str] = {}
        self._most = most
        self._hosted: dict[int, range] = {}

    def keep(self, nodes: Collection[int]) -> None:
        """Forget the claims of all but these nodes; if any claim is free again, the refused nodes may try anew."""
        gone = self._hosted.keys() - set(nodes)
        if gone:
            self._hosted = {node: hosted for node, hosted in self._hosted.items() if node not in gone}
            self.refused = {}

    def settle(self, node: int, hosted: range) -> None:
        """Note that `node` hosts these clients. Raises ClaimError as `check`."""
        self.check(node, hosted)
        self._hosted[node] = hosted

    def check(self, node: int, hosted: range) -> None:
        """Raise ClaimError where these clients are too many, or another node has some; `node` is refused then."""
        if len(hosted) > self._most:
            self.refused[node] = f"node {node} is refused: it claims {len(hosted)} clients, above {self._most} per node"
            raise ClaimError(self.refused[node])
        for other, theirs in self._hosted.items():
            both = range(max(hosted.start, theirs.start), min(hosted.stop, theirs.stop))
            if other != node and both:
                which = f"client {both[0]}" if len(both) == 1 else f"the clients {both[0]} to {both[-1]}"
                self.refused[node] = f"node {node} is refused: it claims {which}, which node {other} has"
                raise ClaimError(self.refused[node])

    def of(self, node: int, clients: range) -> Iterable[int]:
        """Return the clients that a node hosts; all that no other node has, where it has no claim, or is refused."""
        if node in self._hosted:
            return clients[self._hosted[node].start : self._hosted[node].stop]
        return [client for client in clients if not any(client in hosted for hosted in self._hosted.values())]
