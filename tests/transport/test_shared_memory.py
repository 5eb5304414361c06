"""What lies in a mapped file is the same for all processes of a host."""

import os
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
    handle = shared_memory.publish("some", some)
    mapped = handle.map()
    longer = TensorHandle.fitting(handle.path, mapped | {"more": torch.ones(5)})
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


MANY = {"x": torch.ones(1000)}


def test_what_was_read_is_a_copy_that_nobody_can_change(shared_memory):
    handle = shared_memory.publish("some", TENSORS)
    read = handle.read()
    Path(handle.path).write_bytes(b"")
    assert list(read) == list(TENSORS)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_a_file_that_ends_while_it_is_read_is_refused(shared_memory, monkeypatch):
    handle, look = shared_memory.publish("some", MANY), os.fstat

    def shortened(file):
        status = look(file)
        os.truncate(handle.path, 10)
        return status

    monkeypatch.setattr(os, "fstat", shortened)
    with pytest.raises(UnreachableError, match="ended after 10 bytes, not 4032"):
        handle.read()


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder", "device"])
def test_only_plain_files_of_one_name_are_read_and_nothing_is_waited_for(shared_memory, kind):
    published = shared_memory.publish("some", MANY)
    path = shared_memory.path / "other"
    {
        "symlink": lambda: path.symlink_to(published.path),
        "hard link": lambda: path.hardlink_to(published.path),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(UnreachableError, match=r"no plain file of one name|cannot be read"):
        replace(published, path=str(path)).read()


def test_no_memory_is_taken_for_more_than_a_file_has(shared_memory):
    huge = replace(shared_memory.publish("some", MANY), layout=(("x", (2**39, 2**39), "float32"),))
    with pytest.raises(UnreachableError, match="has 4032 bytes, not"):
        huge.read()


def test_what_is_published_again_lies_in_its_first_file_whatever_became_of_its_name(shared_memory):
    handle = shared_memory.publish("some", MANY)
    mapped = handle.map()
    Path(handle.path).rename(shared_memory.path / "aside")
    Path(handle.path).symlink_to("/dev/null")
    shared_memory.publish("some", {"x": torch.zeros(1000)})
    assert (mapped["x"] == 0).all()
    assert Path(handle.path).is_symlink()


def test_a_file_for_a_name_that_others_have_taken_is_another_one(shared_memory):
    (shared_memory.path / "some").symlink_to(shared_memory.path / "precious")
    handle = shared_memory.publish("some", MANY)
    assert not (shared_memory.path / "precious").exists()
    assert handle.map()["x"].sum() == 1000


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_folder_that_others_may_enter_is_no_shared_memory(shared_memory, mode):
    """A server of another user would name one in which links lie, through which a node would write."""
    handle = shared_memory.publish("some", MANY)
    shared_memory.path.chmod(mode)
    assert not handle.is_here
    with pytest.raises(UnreachableError, match="in no shared memory of this user"):
        handle.map()


def test_a_node_does_not_write_through_a_link(shared_memory, tmp_path):
    link = shared_memory.path / "memory-1-0"
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        write(TensorHandle.fitting(link, MANY), MANY)
    assert not (tmp_path / "precious").exists()


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
