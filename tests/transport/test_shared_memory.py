"""What lies in a mapped file is the same for all processes of a host."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laser_fl.transport.shared_memory import SharedMemory, TensorHandle, UnreachableError, locked, write

TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3),
    "counts": torch.tensor([1, 2, 3]),
    "scalar": torch.tensor(7.0, dtype=torch.float64),
    "nothing": torch.zeros(0, 4),
}


@pytest.fixture
def shared_memory():
    one = SharedMemory.with_room(1000)
    yield one
    one.close()


def test_tensors_come_back_as_they_were(shared_memory):
    handle = TensorHandle.parse(shared_memory.publish("some", TENSORS).text)
    for name, tensor in handle.map().items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_no_tensors_are_a_file_too(shared_memory):
    assert TensorHandle.parse(shared_memory.publish("none", {}).text).map() == {}


@pytest.mark.thorough
@pytest.mark.process
def test_another_process_sees_what_is_written_here_and_is_seen(shared_memory):
    handle = shared_memory.publish("some", TENSORS)
    program = (
        "import sys; from laser_fl.transport.shared_memory import TensorHandle; "
        "t = TensorHandle.parse(sys.argv[1]).map()['matrix']; "
        "t += 1; print(t.sum().item())"
    )
    other = subprocess.run([sys.executable, "-c", program, handle.text], capture_output=True, text=True, check=True)
    assert float(other.stdout) == 15 + 6
    assert torch.equal(handle.map()["matrix"], TENSORS["matrix"] + 1)


def test_what_is_shown_again_takes_the_place_of_what_was_there(shared_memory):
    first = shared_memory.publish("some", TENSORS).map()
    shared_memory.publish("some", TENSORS | {"matrix": torch.full((2, 3), 9.0)})
    assert (first["matrix"] == 9).all()


def test_tensors_that_come_to_others_leave_them_where_they_are(shared_memory):
    """To the last bit, which PyTorch's own lengthening of a file would not."""
    some = {name: torch.full_like(tensor, 1 / 3) for name, tensor in TENSORS.items() if tensor.is_floating_point()}
    mapped = shared_memory.publish("some", some).map()
    longer = TensorHandle.fitting(shared_memory.path / "some", mapped | {"more": torch.ones(5)})
    write(longer, mapped | {"more": torch.ones(5)})
    for name, tensor in longer.map().items():
        assert torch.equal(tensor, some.get(name, torch.ones(5)))


def test_gradients_that_one_reader_asks_for_are_not_anothers(shared_memory):
    handle = shared_memory.publish("some", TENSORS)
    handle.map()["matrix"].requires_grad_()
    assert not handle.map()["matrix"].requires_grad


def test_a_lock_is_held_by_one_at_a_time_and_given_back(shared_memory):
    fcntl = pytest.importorskip("fcntl")
    path = shared_memory.path / "node-1"
    with locked(str(path)), path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_is_closed_or_of_another_host_is_not_found(shared_memory):
    handle = shared_memory.publish("some", TENSORS)
    shared_memory.close()
    assert not shared_memory.path.exists()
    with pytest.raises(UnreachableError, match="cannot be mapped"):
        handle.map()


def test_a_file_of_another_host_is_not_even_looked_for(shared_memory):
    handle = shared_memory.publish("some", TENSORS)
    with pytest.raises(UnreachableError, match="is on another host"):
        replace(handle, host="another").map()


def test_a_file_that_is_too_short_or_of_strange_values_is_left_alone(shared_memory):
    path = shared_memory.path / "other"
    path.write_bytes(b"abcdef")
    for layout, line in (
        ((("x", (100,), "float32"),), "has 6 bytes, not 448"),
        ((("x", (1,), "load"),), "unknown type"),
    ):
        with pytest.raises(UnreachableError, match=line):
            replace(TensorHandle.fitting(path, {}), layout=layout).map()
    assert path.read_bytes() == b"abcdef"


@pytest.mark.thorough
@pytest.mark.killed
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(shared_memory):
    program = (
        "import sys, time; from laser_fl.transport.shared_memory import SharedMemory; "
        "b = SharedMemory.with_room(1000); "
        "print(b.path, flush=True); time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    left = Path(process.stdout.readline().strip())
    SharedMemory.with_room(1).close()
    assert left.exists()
    process.kill()
    process.communicate()
    SharedMemory.with_room(1).close()
    assert (left.exists(), shared_memory.path.exists()) == (False, True)


def test_without_room_there_is_no_board():
    assert SharedMemory.with_room(10**18) is None
