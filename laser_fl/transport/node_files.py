"""The files that nodes write into the server's shared memory: the server reads a node's own only, into copies.

A node's files have its ID in their names, to the last character. Whatever a reply names, it gets no other file into the
server's hands; and a node that asks for its client state names nothing: the server knows which files the node has saved
it in, by its last reply. Processes of the same user may still read and change each other's files by themselves.
"""

import os
from collections.abc import Collection
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.errors import WireError, brief
from laser_fl.transport.arrays import reading, write_tensors
from laser_fl.transport.client_state import FILES, LARGE, LAST_TENSORS
from laser_fl.transport.replies import FILE
from laser_fl.transport.shared_memory import TensorHandle, UnreachableError

SIDES = (0, 1)  # of a node's files, which take turns
LONGEST = 2**20  # characters of the handles of a node; those of a model with thousands of blocks have fewer


def file_of(shared_memory: Path, name: str, node: int, side: int) -> str:
    """Return the path of a node's file.

    Args:
        shared_memory: the folder.
        name: of the tensors in the file.
        node: its ID.
        side: 0 or 1.
    """
    return f"{shared_memory}{os.sep}{name}-{node}-{side}"


class NodeFiles:
    """The files of a run's nodes, and where each node has saved its client state."""

    def __init__(self, shared_memory: Path | None) -> None:
        """Know of no files yet. shared_memory: the server's; None: it has none, so that no node has files."""
        self._shared_memory = shared_memory
        self._saved: dict[int, dict[str, str]] = {}

    def read(self, node: int, name: str, handle: TensorHandle) -> Tensors:
        """Copy the tensors out of a node's file; the caller has checked their shapes.

        Args:
            node: its ID.
            name: of the tensors.
            handle: that the node has sent.

        Raises:
            UnreachableError: the file is not there, or shorter than its tensors.
            WireError: the file is not the node's own.
        """
        own = [] if self._shared_memory is None else [file_of(self._shared_memory, name, node, side) for side in SIDES]
        if handle.path not in own:
            raise WireError(f"{name}: must lie in a file of the node's own, got {brief(handle.path)}")
        return handle.read()

    def keep(self, nodes: Collection[int]) -> None:
        """Forget all but these nodes."""
        self._saved = {node: files for node, files in self._saved.items() if node in nodes}

    def note(self, node: int, reply: RecordDict) -> None:
        """Note where a node has saved its client state, as its accepted reply says."""
        files = reply.get(FILES)
        named = files if isinstance(files, ConfigRecord) else {}
        known = {name: text for name in LARGE if isinstance(text := named.get(name), str)}
        self._saved[node] = known if sum(map(len, known.values())) <= LONGEST else {}

    def add_client_state(self, records: RecordDict, node: int, most: int) -> None:
        """Add a node's client state, and the handles of its files, to the records that the node is sent.

        Where it is not there as a whole, no handles say that the node has lost it.

        Args:
            records: for the node.
            node: its ID.
            most: number of bytes that all its tensors may take.
        """
        files, sent = self._saved.get(node, {}), {}
        try:
            for name, text in files.items():
                with reading(name):
                    handle = TensorHandle.parse(text)
                    if (most := most - handle.size) < 0:
                        raise WireError(f"{name}: must take {-most} bytes less")
                sent[name] = write_tensors(self.read(node, FILE if name == LAST_TENSORS else name, handle))
        except (WireError, UnreachableError):
            files, sent = {}, {}
        records.update({**sent, FILES: ConfigRecord({**files})})
