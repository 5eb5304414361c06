"""What only some systems have is used where it is there, and nothing needs it."""

import importlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from laser_fl.config import parse
from laser_fl.transport import shared_folders
from laser_fl.transport.shared_memory import SharedMemory
from simulations import signals
from simulations.engines import in_process

POSIX = {
    os: ("posix_fallocate", "killpg", "getpgid", "setsid", "sched_getaffinity", "mkfifo"),
    signal: ("SIGHUP", "SIGQUIT"),
}
SHORT = {"model": "linear", "clients": 2, "batch-size": 8, "rounds": 2, "checkpoint-every": 1}


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Python as it is on Windows, as far as this project may notice; no folder of memory."""
    for module, names in POSIX.items():
        for name in names:
            monkeypatch.delattr(module, name, raising=False)
    for module in ("fcntl", "resource", "pwd", "grp", "termios"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(shared_folders, "IN_MEMORY", Path("/nowhere"))


@pytest.mark.usefixtures("elsewhere")
def test_the_in_process_engine_needs_none_of_it(tmp_path):
    summary = in_process.run(parse(SHORT), tmp_path / "run")
    assert (summary["status"], summary["rounds"]) == ("completed", 2)
    assert list((tmp_path / "run" / "checkpoints").glob("server-*"))


@pytest.mark.usefixtures("elsewhere")
def test_signals_that_a_system_does_not_have_are_not_waited_for():
    importlib.reload(signals)
    assert [signal.SIGTERM] == signals.ENDING
    with signals.ending_on_signals():
        pass


@pytest.fixture(autouse=True)
def _signals_as_they_were():
    yield
    importlib.reload(signals)


@pytest.mark.usefixtures("elsewhere")
def test_without_a_folder_of_memory_files_are_among_the_temporary_ones():
    shared_memory = SharedMemory.with_room(1000)
    try:
        assert shared_memory.path.parent == Path(tempfile.gettempdir())
        assert torch.equal(shared_memory.publish("some", {"a": torch.arange(5.0)}).map()["a"], torch.arange(5.0))
    finally:
        shared_memory.close()


def test_a_system_that_renames_no_file_in_use_has_no_board_and_nothing_is_left(monkeypatch, tmp_path):
    """As Windows, where the model is sent to every node, then."""

    def refuse(*paths):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(shared_folders, "IN_MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "rename", refuse)
    assert SharedMemory.with_room(1) is None
    assert list(tmp_path.iterdir()) == []
