"""Whatever comes in, by hand or over the wire, is taken or refused in one line; nothing else happens."""

import copy
import json
import logging
import math
import os
import pickle
import resource
import tempfile
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clients.node import reply
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError, LaserError, WireError
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import encode_update
from laser_fl.transport.arrays import read_tensors, take_tensors, write_tensors
from laser_fl.transport.client_state import (
    ask_for_everything,
    asks_for_everything,
    is_elsewhere,
    load_client_state,
    side_of,
)
from laser_fl.transport.messages import handle_in, read_broadcast, read_numbers, write_broadcast
from laser_fl.transport.node_files import NodeFiles
from laser_fl.transport.replies import FILE, read_form, read_reply
from laser_fl.transport.shared_memory import SharedMemory, TensorHandle, UnreachableError
from simulations import presets, sweep
from simulations.cli.common import key_values, refuse_keys
from strategies import OverTheAir
from tests.effort import cases
from tests.helpers import VARIANTS, tensors

pytestmark = pytest.mark.fuzz
WIRE = (WireError, UnreachableError)
LONGEST = 2000  # characters of a line, which may list all keys
MEMORY = 400 << 10  # KiB that all tests together may add to what this process needs at most
KEYS = list(RunConfig().to_flat())


@pytest.fixture(autouse=True, scope="module")
def _modest():
    """Hostile numbers do not make the process large."""
    level = logging.getLogger("flwr").level
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    for variant in SCENES:
        scene(variant)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    logging.getLogger("flwr").setLevel(level)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    for shared_memory in BOARDS:
        shared_memory.close()


def refused(errors, action, *args, lines=1):
    """Do it, or see it refused: (result, error), of which one is None."""
    try:
        return action(*args), None
    except errors as error:
        said = str(error).splitlines()
        assert 1 <= len(said) <= lines
        assert all(line and len(line) < LONGEST and line.isprintable() for line in said)
        str(error).encode()
        return None, error


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


DEEP = nested(5000)


class TestTheRunConfig:
    KEY = st.one_of(
        st.sampled_from(KEYS), st.sampled_from(KEYS).map(lambda key: key[:-1]),
        st.sampled_from(KEYS).map(lambda key: key.replace("-", "_")),
        st.text(st.characters(), max_size=12), st.none(), st.integers(), st.binary(max_size=3), st.booleans(),
        st.sampled_from(["", "po" * 10**5, "a\nb", "\ud800", ("power",)]),
    )  # fmt: skip
    VALUE = st.one_of(
        st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=5), st.text(st.characters()),
        st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
        st.sampled_from([10**5000, -(10**400), 2**63, -1, 0, -0.0, 5e-324, 1e308, math.nan, "nan", "inf", "1e999"]),
        st.sampled_from(["\0", "a\n" * 9, "9" * 5000, "x" * 10**6, "~nobody/x", "\ud800", "cuda:\u0663", b"x" * 10**6]),
        st.sampled_from([1, 2.0, "3", "sgd", "laser", "mlp", "bytes", "cpu", "model", 0.5]),
        st.just(DEEP),
    )  # fmt: skip

    @given(st.dictionaries(KEY, VALUE, max_size=5))
    @settings(max_examples=cases(2000))
    @example({"batch_size": 3, "batch-size": 4})
    @example({"out-dir": "~nobody/x", "data-dir": "a\0b"})
    @example({"out-dir": "0" * 300, "data-dir": "a/" * 3000})
    def test_is_read_or_each_wrong_value_gets_a_line(self, values):
        config, error = refused(ConfigError, parse, values, lines=len(values))
        if error is None:
            assert parse(config.to_flat()) == config
            for key in ("out-dir", "data-dir"):
                Path(config.to_flat()[key]).expanduser().exists()

    @given(st.lists(st.text(st.characters(), max_size=20) | st.sampled_from([f"{key}=1" for key in KEYS]), max_size=4))
    @settings(max_examples=cases(500))
    @example(["power" * 10**5])
    @example(["power=\udcff"])
    @example(["model=a\nb"])
    def test_is_read_from_a_command_line(self, given_values):
        values, error = refused(ConfigError, key_values, given_values)
        if error is None:
            assert len(values) <= len(given_values)
            refused(ConfigError, parse, values, lines=max(1, len(values)))
        refused(ConfigError, refuse_keys, given_values, "model")

    @given(st.text(st.characters(), max_size=3) | st.sampled_from(["../mnist", "", "\0", "x" * 9999]))
    @settings(max_examples=cases(100))
    def test_has_no_presets_but_its_own(self, name):
        with pytest.raises(ConfigError) as refusal:
            presets.load(name)
        assert len(str(refusal.value).splitlines()) == 1

    PART = st.sampled_from(["fixed", "grid", "best-of", "preset", "[fixed]", "[grid]", "[x]", "\n", "=", "power"])
    TOML = st.sampled_from(["1", "[1]", "[]", "{}", "'a'", "nan", "[[1]]", "1979-05-27", '"""\n"""', "[" * 3000, "\0"])

    @given(st.lists(PART | TOML | st.sampled_from(["\n", " = "]), max_size=9).map("".join) | st.binary(max_size=30))
    @settings(max_examples=cases(500))
    @example("fixed = 1")
    @example("grid = 1")
    @example("preset = []")
    @example(b"\xff")
    def test_is_read_from_a_sweeps_file(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "sweep.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        grid, error = refused(ConfigError, sweep.read_grid, path)
        if error is None:
            refused(ConfigError, sweep.runs_of, [grid], path.parent, lines=9)


SHAPES = {"w": (6, 9), "b": (6,)}
BUFFERS = {"mean": torch.zeros(3)}
CLIENTS, NODES = 4, 2
ROOM = 10**5  # bytes, more than any file of these nodes has
SCENES = {
    **{name: (options, False) for name, options in VARIANTS.items()},
    "drifting": ({"downlink": "update", "downlink-power": 1e3}, False),
    "compressed": ({"downlink": "compressed", "momentum": 0.9}, False),
    "compressed adamw": ({"downlink": "compressed", "optimizer": "adamw", "lr-schedule": "one-cycle"}, False),
    "on a board": ({}, True),
    "drifting on a board": ({"downlink": "update", "downlink-power": 1e3}, True),
    "compressed on a board": ({"downlink": "compressed", "factor-exchange": "two-phase"}, True),
}
BOARDS = []


def respond(broadcast, memory):
    """A client of any model: its gradient is its weights, or what it remembers."""
    ctx = broadcast.context
    losses = torch.zeros(len(ctx.participants), dtype=torch.float64)
    if ctx.phase > 0:
        return encode_update(broadcast, None, losses, memory)
    shared = {n: w if broadcast.own_weights else w.expand(len(losses), *w.shape) for n, w in broadcast.weights.items()}
    buffers = {name: b.expand(len(losses), *b.shape) for name, b in broadcast.buffers.items()}
    return encode_update(broadcast, {n: w + 1 for n, w in shared.items()}, losses, memory, buffers)


@cache
def scene(name, written=False):
    """Some exchanges of a run: (broadcasts with the nodes' states before each, replies, the server before each).

    On a board the last replies are those whose files are still there. written: for tests that write into these.
    """
    options, mapped = SCENES[name]
    config = parse({"clients": CLIENTS, "max-retries": 2**31 - 1, "learning-rate": 1e-3, "power": 1e3} | options)
    strategy = OverTheAir(config)
    strategy.server = Server(config, tensors(SHAPES, None, dtype=torch.float32), RoundSchedule(9), buffers=BUFFERS)
    if mapped:
        BOARDS.append(SharedMemory(None))
        strategy._shared_memory, strategy._files = BOARDS[-1], NodeFiles(BOARDS[-1].path)
    nodes = [Context(1, i, {"partition-id": i, "num-partitions": NODES}, RecordDict(), {}) for i in range(NODES)]
    told, said, servers = [], [], []
    for _ in range(3):
        content = write_broadcast(strategy.server.broadcast(), strategy._shared_memory.publish if mapped else None)
        told += [(content, copied(node.state), node.node_id) for node in nodes]
        message = Message(content, dst_node_id=1, message_type="train")
        said.append([reply(message, node, respond).content for node in nodes])
        servers.append(copy.deepcopy(strategy.server))
        strategy.aggregate_train(1, [answer(node, one) for node, one in enumerate(said[-1])])
    assert strategy.server.round >= 1
    assert not any(entry.faults for entry in strategy.server.ledger)
    return told, said[-mapped:], servers[-mapped:], strategy._shared_memory


@cache
def usual(name, place):
    """Replies as they should be, and what is taken of them."""
    _, said, servers, shared_memory = scene(name)
    replies = [read_reply(content, look=look(shared_memory, node)) for node, content in enumerate(pick(said, place))]
    return replies, pick(servers, place)._expected().validate(replies).client_update


def look(shared_memory, node):
    """How a server reads the tensors of a node's reply."""
    return partial(NodeFiles(shared_memory and shared_memory.path).read, node, FILE)


def copied(records):
    return RecordDict({name: record.copy() for name, record in records.items()})


def answer(node, content):
    message = Message(content, dst_node_id=1, message_type="train")
    message.metadata._src_node_id = node
    return message


class Payload:
    """What must not be unpickled."""

    def __reduce__(self):
        return open, (PAYLOAD, "w")


PAYLOAD = f"{tempfile.gettempdir()}/unpickled-{os.getpid()}"


def npy(array, **kind):
    file = BytesIO()
    np.save(file, array, **kind)
    return file.getvalue()


HOSTILE_ARRAYS = [
    npy(np.zeros(3, dtype))
    for dtype in ("f4", "f8", "i8", "f2", "i4", "?", "c16", ">f4", "U3", "S3", "M8[s]", [("a", "f4")])
] + [
    npy(np.array([Payload()], dtype=object), allow_pickle=True), pickle.dumps(Payload()), b"", b"\x93NUMPY",
    npy(np.zeros(())), npy(np.zeros((0, 3))), npy(np.zeros((6, 9), "f4", order="F")), npy(np.full((2, 6), math.nan)),
    npy(np.full(6, math.inf, "f4")), npy(np.zeros((1,) * 32)), npy(np.array([-1, 2**62])), npy(np.full((2, 2), 1e308)),
]  # fmt: skip
HEADERS = [
    "-" * 9000 + "1", "(" * 199, "[" * 9000, "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1180591620717411303424), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }", "{'descr': '|O', 'fortran_order': 1, 'shape': ()}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, True), }", "{'descr': '4294967296f4', 'shape': (1,)}",
]  # fmt: skip
HOSTILE_ARRAYS += [b"\x93NUMPY\x01\x00" + len(h).to_bytes(2, "little") + h.encode() + b"\0" * 4 for h in HEADERS]
HOSTILE_VALUES = [
    -1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**62, 2**63, -(2**63), 10**5000, math.nan, math.inf, -math.inf, -0.0, 5e-324,
    1e308, "", "x\ny", "\ud800", "9" * 5000, "[" * 10**5, "{}", "null", "nan", "received", "update", "start", "model",
    "laser", "z-sgd", "d-dsgd", "moon", b"", b"\xff" * 9, True, False, [], [0], [1, 0], [0, 0], [-1], [2**62], [0,
    2**31 - 1], [math.nan], ["x"], [1.5] * 4, [-1] * 4, list(range(CLIENTS)),
]  # fmt: skip
HOSTILE_PARTS = [
    -1, 0, 1, 3, 2**31, 2**39, 2**70, 1.5, math.nan, math.inf, None, True, "", "x", "a#b", "w", "float64", "bool",
    "Dense", "SharedIndices", "sgd", "adamw", [], {}, [1], [6], [0, 3], [-1, 3], [2**39, 2**39], [1] * 99, [[]],
    ["w", [6, 9], False],
]  # fmt: skip
TREES = ("[", "{")  # beginnings of trees as text
CUT = st.tuples(*[st.integers(0, 999)] * 5)
CUTS = st.lists(CUT, min_size=1, max_size=3)
STRANGERS = [ConfigRecord(), ArrayRecord(), MetricRecord({"a": 1}), ConfigRecord({"slot": "x"}), ConfigRecord({"a": 1})]


def pick(some, number):
    return list(some)[number % len(some)]


def cut(records, cuts, paths=("/etc/passwd",)):
    """Damage records in some places."""
    records = copied(records)
    for where, which, how, part, what in cuts:
        if not records:
            break
        name = pick(records, where)
        record = records[name]
        if how % 8 == 0:
            del records[name]
        elif how % 8 == 1:
            del records[name]
            records[name] = pick(STRANGERS, what)
        elif how % 8 == 2:
            record = records[pick(records, what)].copy()
            del records[name]
            records[name] = record
        elif isinstance(record, ConfigRecord) and record:
            _cut_values(record, pick(record, which), how, part, what, paths)
        elif isinstance(record, ArrayRecord) and record:
            _cut_arrays(record, pick(record, which), how, part, what)
    return records


def _cut_values(record, key, how, part, what, paths):
    value = record[key]
    if isinstance(value, str) and value[:1] in TREES and how % 8 > 3:
        record[key] = _cut_json(key, value, how, part, what, paths)
    elif how % 16 == 3:
        del record[key]
    elif how % 16 == 4:
        record[pick(["a", "slot", "", "x" * 10**4], what)] = record.pop(key)
    elif isinstance(value, list) and how % 8 == 5:
        record[key] = (value * 2, value[::-1], value[1:])[what % 3]
    elif isinstance(value, bytes) and value and how % 8 > 5:
        place = part * what % len(value)
        flipped = value[:place] + bytes([what % 256]) + value[place + 1 :]
        record[key] = (flipped, value[:place], value + b"\0")[what % 3]
    else:
        record[key] = pick(HOSTILE_VALUES, what)


def _cut_json(key, text, how, part, what, paths):
    if how % 8 == 4:
        return text[: what % len(text)] + ("", "[" * 10**5, "x", "\0")[part % 4]
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        tree = []
    if not isinstance(tree, (list, dict)) or len(tree) < 2:  # it was damaged before
        return text
    if isinstance(tree, list) and isinstance(tree[1], str) and how % 8 == 5:  # a handle
        tree[1] = pick(paths, what)
        return json.dumps(tree)
    holder = tree
    for _ in range(part % 5):
        inner = [
            one for one in (holder.values() if isinstance(holder, dict) else holder) if isinstance(one, (list, dict))
        ]
        if not any(inner):
            break
        holder = pick([one for one in inner if one], part)
    place = pick(holder if isinstance(holder, dict) else range(len(holder)), part)
    if isinstance(holder[place], str) and holder[place][:1] in TREES:  # a text in the text
        holder[place] = _cut_json("", holder[place], how, part // 5, what, paths)
    elif how % 8 == 6 and isinstance(holder, list):
        holder.append(holder[place])
    else:
        holder[place] = pick(HOSTILE_PARTS, what)
    return json.dumps(tree)


def _cut_arrays(record, name, how, part, what):
    array = record[name]
    data = array.data
    if how % 8 == 3:
        record[pick(["a", "", "x\ny" * 10**4, "0/values/w", "0/places/w"], what)] = record.pop(name)
    elif how % 8 == 4:
        del record[name]
    elif how % 8 == 5:
        record[name] = Array(array.dtype, array.shape, pick(["pickle", "numpy.ndarray\n", ""], what), data)
    elif how % 8 == 6:
        place = part * what % max(1, len(data))
        flipped = data[:place] + bytes([what % 256]) + data[place + 1 :]
        record[name] = Array(array.dtype, array.shape, array.stype, (flipped, data[:place], data + b"\0")[what % 3])
    else:
        record[name] = Array(array.dtype, array.shape, array.stype, pick(HOSTILE_ARRAYS, what))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Where nobody should look, and some that cannot be mapped on a board."""
    folder = tmp_path_factory.mktemp("paths")
    secret, shared_memory = folder / "secret", folder / "laser-fl-board"
    secret.write_bytes(b"s" * 9999)
    shared_memory.mkdir(0o700)
    (shared_memory / "taken").touch()
    os.mkfifo(shared_memory / "fifo")
    (shared_memory / "folder").mkdir()
    (shared_memory / "link").symlink_to(secret)
    (shared_memory / "short").write_bytes(b"abc")
    names = ["fifo", "folder", "link", "short", "..", "../secret", "none", "a\0b", "x" * 300, "\ud800"]
    yield [
        "/etc/passwd", "/dev/zero", "/dev/shm", "/proc/self/mem", "", "/", "..", str(secret), "x" * 5000, "\n/a",
        *(f"{shared_memory}/{name}" for name in names),
    ]  # fmt: skip
    assert secret.read_bytes() == b"s" * 9999
    assert (shared_memory / "short").read_bytes() == b"abc"
    locks = {shared_memory / f"node-{i}" for i in range(NODES)}  # it is a board, in which nodes lock what is theirs
    assert sorted(path.name for path in set(folder.rglob("*")) - locks) == sorted(
        ["secret", "laser-fl-board", "taken", "fifo", "folder", "link", "short"]
    )
    assert not any(lock.exists() and lock.read_bytes() for lock in locks)
    assert not Path(PAYLOAD).exists()


SCENE, PLACE = st.sampled_from(list(SCENES)), st.integers(0, 5)


class TestTheWire:
    @given(SCENE, PLACE, CUTS)
    @settings(max_examples=cases(1000))
    def test_a_broadcast_is_read_or_refused(self, paths, name, place, cuts):
        records = cut(pick(scene(name)[0], place)[0], cuts, paths)
        for read in (read_broadcast, read_numbers, handle_in):
            refused(WIRE, read, records)

    @given(SCENE, PLACE, CUTS)
    @settings(max_examples=cases(1000))
    def test_a_reply_is_read_or_refused(self, paths, name, place, cuts):
        _, said, _, shared_memory = scene(name)
        records = cut(pick([one for two in said for one in two], place), cuts, paths)
        refused(WIRE, read_reply, records, "cpu", look(shared_memory, place % NODES))
        refused(WIRE, read_reply, records)
        refused(WIRE, read_form, records, CLIENTS)

    @given(st.integers(0, 999), CUTS)
    @settings(max_examples=cases(1000))
    def test_tensors_are_read_or_refused(self, paths, place, cuts):
        plain = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(3), "c": torch.zeros(2, 0).double()}
        handle = ConfigRecord({"slot": TensorHandle.fitting(Path(pick(paths, place)), plain).text})
        records = cut(RecordDict({"plain": write_tensors(plain), "slot": handle}), cuts, paths)
        for key in ("plain", "slot", "none"):
            refused(WIRE, take_tensors, records, "slot", key)
        for record in records.array_records.values():
            refused(WIRE, read_tensors, record)
        for record in records.config_records.values():
            if isinstance(text := record.get("slot"), str):
                refused((ValueError,), TensorHandle.parse, text, lines=99)

    @pytest.mark.parametrize("data", HOSTILE_ARRAYS[12:14], ids=["in an array", "by itself"])
    def test_what_is_pickled_is_not_even_looked_at(self, data):
        record = ArrayRecord({"x": Array("object", (1,), "numpy.ndarray", data)})
        with pytest.raises(WireError, match="array x: not what it must be"):
            read_tensors(record)
        assert not Path(PAYLOAD).exists()

    @given(SCENE, st.integers(2, 5), CUTS, CUTS, st.booleans())
    @settings(max_examples=cases(1000))
    def test_what_was_put_away_is_taken_or_refused(self, paths, name, place, cuts, more, sent):
        content, state, node = pick(scene(name)[0], place)
        broadcast, clients = read_broadcast(content), range(2 * node, 2 * node + 2)
        state = cut(state, cuts, paths)
        told = cut(state, more, paths) if sent else RecordDict()
        refused(WIRE, load_client_state, told, state, broadcast, clients)
        refused(WIRE, side_of, state)

    @given(st.sampled_from([name for name in SCENES if "board" in name]), st.integers(2, 5), CUTS)
    @settings(max_examples=cases(500))
    def test_a_node_is_sent_what_it_has_saved_or_nothing(self, paths, name, place, cuts):
        _, said, _, shared_memory = scene(name)
        node, files, sent = place % NODES, NodeFiles(shared_memory.path), RecordDict()
        files.note(node, cut(said[-1][node], cuts, paths))
        files.add_client_state(sent, node, ROOM)
        assert sent.array_records.keys() == sent["files"].keys()
        asked = cut(ask_for_everything(elsewhere=True), cuts)
        if asks_for_everything(asked):
            is_elsewhere(asked)


class TestANode:
    def test_does_not_follow_news_that_does_not_lead_to_the_exchange_it_was_told_in(self):
        content, state, node = scene("compressed")[0][4]
        told = copied(content)
        numbers = json.loads(told["broadcast"]["text"])
        numbers["exchange"]["updates"] += 1
        told["broadcast"]["text"] = json.dumps(numbers)
        context = Context(1, node, {"partition-id": node, "num-partitions": NODES}, copied(state), {})
        answered = reply(Message(told, dst_node_id=1, message_type="train"), context, respond).content
        assert asks_for_everything(answered)

    @given(SCENE, PLACE, CUTS, st.booleans())
    @settings(max_examples=cases(1000))
    def test_answers_or_says_what_is_wrong(self, paths, name, place, cuts, sent):
        content, state, node = pick(scene(name, written=SCENES[name][1])[0], place)
        if sent:  # what it held comes with the broadcast
            content = RecordDict({**state, **content})
        context = Context(1, node, {"partition-id": node, "num-partitions": NODES}, copied(state), {})
        message = Message(cut(content, cuts, paths), dst_node_id=1, message_type="train")
        refused(LaserError, reply, message, context, respond)


class TestAServer:
    pytestmark = pytest.mark.filterwarnings("ignore:Seems like")  # PyTorch does not know a copy of a schedule

    @given(SCENE, st.integers(0, 2), st.integers(0, 1), CUTS)
    @settings(max_examples=cases(1000))
    @example("d-dsgd", 0, 0, [(2, 0, 6, 6, 24)])  # a value more, and the message is longer than its link
    def test_leaves_out_a_node_that_makes_no_sense_and_goes_on(self, paths, name, place, bad, cuts):
        _, said, servers, shared_memory = scene(name)
        server, contents = pick(servers, place), list(pick(said, place))
        strategy = OverTheAir(server.config)
        strategy.server, strategy._files = server, NodeFiles(shared_memory and shared_memory.path)
        contents[bad] = cut(contents[bad], cuts, paths)
        received = strategy._gather([answer(node, content) for node, content in enumerate(contents)])
        assert_goes_on(server, *received, bad=(2 * bad, 2 * bad + 1), usual=usual(name, place)[1])

    VALUES = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, 1.7e308, 3.5e38, 5e-324])
    TYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64])
    CHANGES = st.one_of(
        st.tuples(st.just("value"), VALUES),
        st.tuples(st.just("type"), TYPES),
        st.tuples(st.just("view"), st.integers(0, 7)),
        st.tuples(st.just("name"), st.sampled_from(["", "w", "x\ny" * 999, "w#p0"])),
        st.tuples(st.just("order"), st.none()),
    )
    NUMBERS = st.integers(-1, CLIENTS) | st.sampled_from([-(2**70), 2**31, 2**70])
    LISTS = st.just((0, 1)) | st.lists(NUMBERS, max_size=5).map(tuple)

    @given(SCENE, st.integers(0, 2), st.lists(st.tuples(st.integers(0, 99), CHANGES), max_size=3), LISTS, NUMBERS)
    @settings(max_examples=cases(1000))
    def test_takes_no_uplink_that_could_do_harm(self, name, place, changes, clients, exchange):
        servers = scene(name)[2]
        (other, sound), taken = usual(name, place)
        exchange = other.exchange if exchange < 2 else exchange
        strange = Reply(exchange, clients, changed(other.client_update, changes))
        assert_goes_on(pick(servers, place), [strange, sound], [], bad=(0, 1), usual=taken)


def changed(client_update, changes):
    """An uplink with other tensors, whether or not they are such as it may have."""
    parts = {name: value for name, value in vars(client_update).items() if name not in ("in_flight", "superposed")}
    trees = {name: dict(value) if isinstance(value, dict) else {name: value} for name, value in parts.items()}
    for where, (how, what) in changes:
        tree = trees[pick(trees, where)]
        if not tree:
            continue
        key = pick(tree, where // 5)
        tensor = tree[key].clone(memory_format=torch.contiguous_format)
        if how == "value" and tensor.numel() and tensor.is_floating_point():
            tensor.view(-1)[where % tensor.numel()] = torch.tensor(what, dtype=torch.float64).to(tensor.dtype)
        elif how == "type":
            tensor = (tensor.real if tensor.is_complex() else tensor).to(what)
        elif how == "view":
            row = tensor[None]
            row, flat = tensor[None], tensor.flatten()
            views = (
                flat[:0],
                flat[:1],
                flat,
                tensor.sum(),
                row,
                tensor.t() if tensor.ndim == 2 else flat,
                row[..., :0],
            )
            tensor = views[what % len(views)]
        if how == "order":
            for name in list(tree)[:-1]:
                tree[name] = tree.pop(name)
        elif (
            how == "name"
            and len(parts[next(n for n, t in trees.items() if t is tree)])
            and key in client_update.signals
        ):
            tree[what] = tree.pop(key)
        else:
            tree[key] = tensor
    whole = object.__new__(ClientUpdate)
    for name, tree in trees.items():
        object.__setattr__(whole, name, tree if name in ("signals", "buffers") else next(iter(tree.values())))
    object.__setattr__(whole, "in_flight", ())
    return whole


def assert_goes_on(server, replies, failed, bad, usual):
    """Only the bad are left out, or whom they took for themselves; where they are not, the model stays sound.

    usual: what is taken of replies as they should be.
    """
    taken = server._expected().validate(replies, failed)
    for fault in taken.faults:
        assert fault.client in bad or fault.kind == "twice"
        assert str(fault).isprintable()
        assert len(str(fault)) < LONGEST
    if not set(bad) & set(taken.clients) or same(taken.client_update, usual):
        return
    server = copy.deepcopy(server)
    server.aggregate(replies, failed)
    tree = (*server.global_model.weights.values(), *server.air.shared.values())
    assert all(tensor.isfinite().all() for tensor in tree)
    assert math.isfinite(server.train_loss)


def same(a, b):
    pairs = ((a.signal_norms, b.signal_norms), (a.gradient_norms, b.gradient_norms), (a.losses, b.losses))
    trees = ((a.signals, b.signals), (a.buffers, b.buffers))
    return all(torch.equal(x, y) for x, y in pairs) and all(
        list(x) == list(y) and all(torch.equal(x[name], y[name]) for name in x) for x, y in trees
    )
