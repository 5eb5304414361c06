"""Broadcasts, replies and what nodes hold as Flower records, and back. The only part of the core that imports Flower.

A broadcast names its scheme and carries everything a client needs to encode, so that a client
node follows whatever strategy the server runs. Between processes of one host tensors do not ride
along: they lie in mapped files (`laser_fl.mapped`), and the records say where. Whatever is read is checked: a
message that is not what it must be is a `WireError`.
"""

from laser_fl.wire.broadcasts import begins, board_of, clients_of, read_broadcast, write_broadcast
from laser_fl.wire.held import (
    add_held,
    ask_for_everything,
    asks_for_everything,
    forget,
    is_elsewhere,
    put_held,
    side_of,
    take_held,
)
from laser_fl.wire.replies import hosted_by, read_reply, write_reply
from laser_fl.wire.tensors import Show, put_tensors, read_tensors, take_tensors, write_tensors

__all__ = [
    "Show",
    "add_held",
    "ask_for_everything",
    "asks_for_everything",
    "begins",
    "board_of",
    "clients_of",
    "forget",
    "hosted_by",
    "is_elsewhere",
    "put_held",
    "put_tensors",
    "read_broadcast",
    "read_reply",
    "read_tensors",
    "side_of",
    "take_held",
    "take_tensors",
    "write_broadcast",
    "write_reply",
    "write_tensors",
]
