"""Whatever lies where a checkpoint should, it is read or refused by name."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from laser_fl.config import parse
from laser_fl.errors import LaserError
from laser_fl.federated.client import ClientGroup, from_checkpoint, to_checkpoint
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.storage.checkpoint import FORMAT, VERSION, CheckpointError, load, save
from tests.effort import cases
from tests.helpers import tensors, zero_losses

pytestmark = pytest.mark.fuzz
SMALL = {"w": (6, 5), "b": (3,)}
CONFIG = parse({"clients": 2, "rank": 1, "momentum": 0.9})
NUMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TENSORS = st.sampled_from(
    [torch.ones(2), torch.zeros(()), torch.ones(6, 5), torch.zeros(0, 3), torch.arange(3), torch.full((2, 6, 5), 0.5)]
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A checkpoint of a server after two rounds, its content, and what its clients held."""
    server = Server(CONFIG, tensors(SMALL, clients=None, dtype=torch.float32), RoundSchedule(4))
    group = ClientGroup(
        range(2), lambda b, m: encode_update(b, tensors(SMALL, 2, dtype=torch.float32), zero_losses(2), m)
    )
    for _ in range(2):
        server.aggregate([group.answer(server.broadcast())])
    path = tmp_path_factory.mktemp("checkpoints") / "server-00000002.safetensors"
    save(path, *server.state())
    return path, path.read_bytes(), server.state(), to_checkpoint(group.client_state)


def refused(kind, read, *args):
    """The one line in which `read` refuses something; empty where it takes it."""
    try:
        read(*args)
    except kind as error:
        (line,) = str(error).splitlines()
        return line
    return ""


@given(st.data())
@settings(max_examples=cases(1500))
def test_bytes_are_a_checkpoint_or_refused_by_name(file, data):
    path, content, *_ = file
    other = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(other)))
        how = data.draw(st.sampled_from(["flip", "cut", "more", "header"]))
        if how == "cut":
            del other[place:]
        elif how == "more":
            other[place:place] = data.draw(st.binary(max_size=40))
        else:
            place = place % 600 if how == "header" else place
            other[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    path.with_name("other.safetensors").write_bytes(other)
    refusal = refused(CheckpointError, load, path.with_name("other.safetensors"))
    assert refusal.startswith(str(path.with_name("other.safetensors"))) or (not refusal and bytes(other) == content)


@given(st.dictionaries(st.sampled_from(["format", "version", "numbers", "checksum", "x"]), st.text(max_size=30)))
@settings(max_examples=cases(300))
def test_files_of_other_programs_are_refused_by_name(tmp_path_factory, metadata):
    path = tmp_path_factory.getbasetemp() / "foreign.safetensors"
    save_file({"w": torch.ones(2).numpy()}, path, {"format": FORMAT, "version": VERSION, "numbers": "{}"} | metadata)
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors"):
        load(path)


def changed(data, numbers, named):
    """Another checkpoint of valid form: some of its numbers and tensors are others, or gone."""
    numbers, named = json.loads(json.dumps(numbers)), dict(named)
    for _ in range(data.draw(st.integers(1, 3))):
        some = data.draw(st.sampled_from([numbers, named]))
        if not some:
            continue
        key = data.draw(st.sampled_from(sorted(some)))
        value = data.draw(st.none() | (TENSORS if some is named else NUMBERS))
        if some is named and value is None:
            del some[key]
        else:
            some[key] = value
    return numbers, named


@given(st.data())
@settings(max_examples=cases(500))
def test_a_server_goes_on_from_its_own_state_or_refuses_it(file, data):
    numbers, named = changed(data, *file[2])
    server = Server(CONFIG, tensors(SMALL, clients=None, dtype=torch.float32), RoundSchedule(4))
    refused(LaserError, server.restore, numbers, named, [])


@given(st.data())
@settings(max_examples=cases(500))
def test_clients_hold_what_was_put_away_or_refuse_it(file, data):
    numbers, named = changed(data, *file[3])
    refused(CheckpointError, from_checkpoint, numbers, named)
