"""Ways in which a hostile node may spoil its reply. Imported by tests only, after the type-checking hook."""

import io
import json
import math
import random
from contextlib import suppress

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from laser_fl.transport.client_state import ask_for_everything

UNLIKELY = ["\x1b[2J\x1b]0;owned\x07", "a\nWARNING: forged", "\ud800", "x" * 10**6, "\u202egnp", "", "'\"", "%s%n{}"]
INTEGERS = [-1, 0, 1, 3, 7, 2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**70, -(2**63)]
JSONS = [*INTEGERS, None, True, 1.5, math.nan, math.inf, "", "1", "\ud800", [], [0], [[]], {}, {"a": 1}]
DEEP = "[" * 50_000 + "]" * 50_000
ERRORS = [
    ValueError("a\nb"), KeyError("x" * 10**5), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), RecursionError(),
    MemoryError(), AttributeError("\x1b[31m"), TypeError("\ud800"), OverflowError("too large"), AssertionError(),
]  # fmt: skip


def copied(records):
    return RecordDict({name: record.copy() for name, record in records.items()})


def npy(values, header=None):
    """A file in NumPy's format; header: a forged one."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=values.dtype == object)
    if header is None:
        return file.getvalue()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values.tobytes()


class Spoilers:
    """Ways in which a node's reply may be spoilt, by name; each takes a message, and gives what arrives instead of it.

    That is a message, an error that the grid raises when it unpacks one, or None. draw: random. others: replies that
    nodes have sent before.
    """

    def __init__(self, seed, paths=()):
        self.draw, self.paths, self.others = random.Random(seed), list(paths), []
        self.names = [name for name in vars(Spoilers) if not name.startswith("_")]

    def _content(self, reply):
        reply = Message(copied(reply.content), reply_to=reply)
        return reply, reply.content

    def _anywhere(self, some):
        return self.draw.choice(list(some))

    def cannot_be_unpacked(self, reply):
        return self.draw.choice(ERRORS)

    def nothing(self, reply):
        return None

    def neither_content_nor_error(self, reply):
        reply.__dict__["_content"] = None
        return reply

    def error(self, reply):
        reply.__dict__["_content"] = None
        reason = self.draw.choice([None, *UNLIKELY, 7, b"x"])
        reply.__dict__["_error"] = Error(self.draw.choice([*range(10), *INTEGERS, None, "x"]), reason)
        return reply

    def metadata(self, reply):
        values = vars(reply.metadata)
        for key in self.draw.sample(list(values), 3):
            values[key] = self.draw.choice([*INTEGERS, *UNLIKELY, None, 100, 101, 666, "message 1", math.nan])
        return reply

    def asks_for_everything(self, reply):
        reply, content = self._content(reply)
        values = {"elsewhere": self.draw.choice([True, False, 0, 1, "", "no", 0.0, b"", [True]])}
        for key in self.draw.sample(["memory", "copies", "in-flight", "last-tensors", "x"], self.draw.randrange(4)):
            handle = self._handle(content)
            kind = self.draw.choice(["bfloat16", "bfloat16", "float64", "x"])
            handle[2:] = [[[*entry[:2], kind] for entry in layout] for layout in handle[2:]]
            values[key] = self.draw.choice([json.dumps(handle), *UNLIKELY, DEEP, 7])
        everything = ConfigRecord(values) if self.draw.random() < 0.9 else MetricRecord({"elsewhere": 1})
        reply.__dict__["_content"] = RecordDict({"everything": everything, **(content if self._coin() else {})})
        return reply

    def honest_request(self, reply):
        reply.__dict__["_content"] = ask_for_everything(elsewhere=self._coin())
        return reply

    def _coin(self):
        return self.draw.random() < 0.5

    def _handle(self, content):
        text = content["reply"].get("tensors") if "reply" in content else None
        return json.loads(text) if isinstance(text, str) else ["host", self.draw.choice([*self.paths, ""]), []]

    def numbers(self, reply):
        reply, content = self._content(reply)
        numbers = json.loads(content["reply"]["text"])
        key = self._anywhere(numbers)
        if isinstance(numbers[key], list) and numbers[key] and self._coin():
            numbers[key][self.draw.randrange(len(numbers[key]))] = self.draw.choice(JSONS)
        elif self._coin():
            numbers[key] = self.draw.choice(JSONS)
        elif self._coin():
            del numbers[key]
        else:
            numbers[key] = numbers[key] + (self.draw.choice([-1, 1, 2]) if isinstance(numbers[key], int) else [1])
        content["reply"]["text"] = json.dumps(numbers)
        return reply

    def participants(self, reply):
        reply, content = self._content(reply)
        numbers = json.loads(content["reply"]["text"])
        mine = numbers["participants"]
        many = [list(range(10**5)), mine * 2, mine[::-1] * 2, [], [c + 1 for c in mine], [0], [2**63 - 1], [-1]]
        numbers["participants"] = self.draw.choice(many)
        if self._coin():
            numbers["first"], numbers["end"] = self.draw.choice([(0, 2**31 - 1), (2**63 - 1, 0), (0, 16), (9, 17)])
        content["reply"]["text"] = json.dumps(numbers)
        return reply

    def text(self, reply):
        reply, content = self._content(reply)
        text = content["reply"]["text"]
        place = self.draw.randrange(len(text))
        odd = [DEEP, "9" * 5000, '{"exchange":' * 9999, text * 2, "\0", text[:place], text[:-1] + DEEP + "}"]
        flipped = text[:place] + chr(self.draw.randrange(1, 256)) + text[place + 1 :]
        padded = text + " " * 10**6
        content["reply"]["text"] = self.draw.choice([flipped] * 9 + [*odd, *UNLIKELY, padded])
        return reply

    def reports(self, reply):
        reply, content = self._content(reply)
        data = bytearray(content["reply"]["reports"])
        values = np.frombuffer(data, "<f8")
        which = self.draw.randrange(len(values)) if len(values) else 0
        how = self.draw.randrange(5)
        if how == 0 and len(values):
            values[which] = self.draw.choice([math.nan, math.inf, -math.inf, -1.0, 1.7e308, 5e-324, -0.0])
        elif how == 1 and len(values):
            values[which] *= 1 + self.draw.choice([1e-9, -1e-7, 1e-6, -1e-5, 1e-4, 1e-2])
        elif how == 2 and data:
            data[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
        data = bytes(data)
        content["reply"]["reports"] = (data, data, data, self._of_another_length(data), "text")[how]
        return reply

    def _of_another_length(self, data):
        return self.draw.choice([data[:-1], data + b"\0", data[8:], data * 2, b"", data + b"\0" * 10**6])

    def records(self, reply):
        reply, content = self._content(reply)
        name = self._anywhere(content)
        strangers = [ConfigRecord(), ArrayRecord(), MetricRecord({"a": 1}), ConfigRecord({"text": "x"})]
        how = self.draw.randrange(4)
        if how == 0:
            content[self.draw.choice(["x", *UNLIKELY, "broadcast", "tensors"])] = self.draw.choice(strangers)
        else:
            record = content.pop(name)
            if how == 1:
                content[name] = self.draw.choice(strangers)
            elif how == 2:
                content[self.draw.choice(["x", *UNLIKELY])] = record
        return reply

    def values(self, reply):
        reply, content = self._content(reply)
        record = content["reply"]
        key = self._anywhere(record)
        odd = [*INTEGERS[:8], *UNLIKELY, b"", b"\xff" * 99, [], [1], [b"x"], True, math.nan, DEEP]
        if self._coin():
            record[key] = self.draw.choice(odd)
        else:
            record[self.draw.choice(["x", *UNLIKELY])] = record.pop(key) if self._coin() else "x" * 10**5
        return reply

    def handle(self, reply):
        reply, content = self._content(reply)
        if "tensors" in content:  # there are arrays: the handle must not matter, or is all that there is
            content["reply"]["tensors"] = json.dumps(self._handle(content))
            if self._coin():
                del content["tensors"]
            return reply
        handle = self._handle(content)
        how = self.draw.randrange(5)
        if how == 0:
            handle[1] = self.draw.choice([*self.paths, *UNLIKELY])
        elif how == 1 and handle[2]:
            handle[2][self.draw.randrange(len(handle[2]))] = self.draw.choice(
                [["x", [2**39], "float32"], ["signals/w", [0], "int64"], ["", [], "bfloat16"], ["a", [1], "no"]]
            )
        elif how == 2:
            handle[2] = (handle[2] * 2, handle[2][1:], handle[2][::-1], handle[2] * 999)[self.draw.randrange(4)]
        elif how == 3:
            handle[0] = self.draw.choice(["another host", *UNLIKELY])
        else:
            handle = self.draw.choice([handle[:2], [handle], handle * 2, {}, handle[1]])
        content["reply"]["tensors"] = self.draw.choice(
            [json.dumps(handle)] * 6 + [DEEP, json.dumps(handle) + " " * 10**6]
        )
        return reply

    def array(self, reply):
        """One of the arrays, or where there are none one instead of the handle."""
        reply, content = self._content(reply)
        arrays = content.setdefault("tensors", ArrayRecord({"signals/w": Array(np.zeros((1, 3), "f4"))}))
        if not arrays:
            return reply
        name = self._anywhere(arrays)
        array = arrays[name]
        try:
            values = np.load(io.BytesIO(array.data))
        except ValueError:
            values = np.zeros(3, "f4")
        data = self.draw.choice([self._other_type, self._other_shape, self._other_values, self._forged, self._cut])(
            values, array.data
        )
        stype = self.draw.choice(["numpy.ndarray"] * 9 + ["pickle", "x" * 10**5])
        arrays[name] = Array(self.draw.choice([array.dtype, "x"]), array.shape, stype, data)
        return reply

    def _other_type(self, values, data):
        if self.draw.random() < 0.1:
            return npy(np.array([{}], dtype=object))
        return npy(values.astype(self.draw.choice(["f2", "f4", "f8", "i8", "?", "c8", ">f4", "i4", "S3"])))

    def _other_shape(self, values, data):
        shapes = [(-1,), (1, *values.shape), (*values.shape, 1)]
        more = [values[..., :0], values[:0], np.concatenate([values, values]), np.asfortranarray(values)]
        return npy(self.draw.choice([*(values.reshape(shape) for shape in shapes), *more]))

    def _other_values(self, values, data):
        values = values.astype("f4")
        flipped = values.copy()
        if values.size:
            flipped.view("i4").reshape(-1)[self.draw.randrange(values.size)] ^= 1 << self.draw.randrange(31)
        filled = np.full_like(values, self.draw.choice([math.nan, math.inf, -math.inf, 3e38, 0.0, -0.0, 1e-45]))
        return npy(self.draw.choice([flipped, flipped, filled, 3 * values, -values, values + np.float32(1)]))

    def _forged(self, values, data):
        described = [
            ("<f4", "(1099511627776, 1048576)"), ("<f4", "(-1, -1)"), ("|O", "(1,)"), ("<f4", "(0, 2**70)"),
            ("<f4", f"({'1,' * 900})"), ("<f4", f"({'9' * 4000},)"), ("4294967296f4", "(1,)"), ("<f4", "(True, True)"),
        ]  # fmt: skip
        headers = [f"{{'descr': '{d}', 'fortran_order': False, 'shape': {shape}, }}\n" for d, shape in described]
        return npy(values, self.draw.choice([*headers, "[" * 9000, "-" * 9000 + "1", "{}", "\0"]))

    def _cut(self, values, data):
        place = self.draw.randrange(max(1, len(data)))
        flipped = data[:place] + bytes([self.draw.randrange(256)]) + data[place + 1 :]
        return self.draw.choice([flipped, flipped, b"", b"\x93NUMPY", data[:place], data + b"\0" * 10**6])

    def arrays(self, reply):
        """More of them, or fewer, or others' names."""
        reply, content = self._content(reply)
        arrays = content.setdefault("tensors", ArrayRecord())
        names = list(arrays)
        odd = [
            "x",
            "signals/",
            "buffers/",
            "signals",
            "/",
            "signals/w/w",
            "norms of signals",
            "buffers/mean",
            *UNLIKELY,
        ]
        how = self.draw.randrange(5)
        if how == 0:
            size = self.draw.choice([1, 10**3, 10**6])
            arrays[self.draw.choice(odd)] = Array(np.zeros(size, "f4"))
        elif how == 1:
            tiny = Array(np.zeros(1, "f4"))
            for i in range(2000):
                arrays[f"signals/{i}"] = tiny
        elif how == 2 and names:
            del arrays[self.draw.choice(names)]
        elif how == 3 and names:
            arrays[self.draw.choice(odd)] = arrays.pop(self.draw.choice(names))
        elif names:
            arrays[names[0]] = arrays.pop(names[0])
        return reply

    def of_another(self, reply):
        """A reply of another node, or to an earlier exchange."""
        reply.__dict__["_content"] = copied(self.draw.choice(self.others)) if self.others else RecordDict()
        return reply

    def two_at_once(self, reply):
        """Spoilt twice."""
        ways = [self.numbers, self.text, self.reports, self.records, self.values, self.handle, self.array, self.arrays]
        for way in self.draw.sample(ways, 2):
            with suppress(LookupError, TypeError, ValueError, AttributeError, RecursionError):  # beyond repair
                reply = way(reply)
        return reply
