"""What a disk refuses costs one line, and nothing that was there before."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.errors import ConfigError, StorageError
from laser_fl.storage.checkpoint import load
from simulations.cli import app
from simulations.engines import in_process

SHORT = {"model": "linear", "clients": 4, "batch-size": 16, "rounds": 12, "evaluate-every": 2, "checkpoint-every": 4}
OPTIONS = [word for key, value in SHORT.items() for word in ("-c", f"{key}={value}")]


def invoke(*arguments):
    return CliRunner().invoke(app, [*arguments])


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("command", [["run"], ["compare", "--strategies", "sgd"]])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(command):
    """Nobody, root included, makes folders there."""
    refused = invoke(*command, *OPTIONS, "--quiet", "--out", "/sys/laser-fl")
    assert refused.exit_code in (1, 2)
    (line,) = refused.stderr.splitlines()
    assert "/sys/laser-fl" in line
    assert "not permitted" in line or "denied" in line or "Read-only" in line


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in ("file", "file/below"):
        refused = invoke("run", *OPTIONS, "--out", str(tmp_path / out))
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
        assert refused.stderr.startswith("out-dir: must be ")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.thorough
@pytest.mark.killed
def test_a_disk_that_takes_no_more_stops_a_run_in_one_line(tmp_path):
    """A limit on the size of files stands for it: tables fit, a checkpoint does not."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from simulations.cli import app; app()"
    )
    command = [sys.executable, "-c", program, "run", "--quiet", *OPTIONS, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "checkpoints/" in line
    assert "cannot be written (" in line
    assert "File too large" in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 3)  # clients keep theirs first
    assert not list((tmp_path / "run").rglob(".*.part"))


def fill_up(monkeypatch, files):
    """The disk is full after so many files, or rows that were added to one."""
    write, open_, left = Path.write_bytes, Path.open, iter(range(files))

    def take_room(path):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write_bytes(path, content):
        take_room(path)
        return write(path, content)

    def open(path, mode="r", *more, **options):
        if mode == "r+b":
            take_room(path)
        return open_(path, mode, *more, **options)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(Path, "open", open)


@pytest.mark.parametrize("files", [2, 5, 11])
def test_a_disk_that_fills_up_leaves_earlier_files_whole(tmp_path, monkeypatch, files):
    fill_up(monkeypatch, files)
    with pytest.raises((StorageError, ConfigError), match="No space left on device"):
        in_process.run(parse(SHORT), tmp_path / "run")
    monkeypatch.undo()
    for file in (tmp_path / "run").glob("*.json"):
        json.loads(file.read_text())
    for file in (tmp_path / "run").glob("*.csv"):
        header, *rows = file.read_text().splitlines()
        assert rows
        assert all(row.count(",") == header.count(",") for row in rows)
    for file in (tmp_path / "run" / "checkpoints").glob("*"):
        load(file)
    assert not list((tmp_path / "run").rglob(".*"))


def test_what_was_stopped_by_a_full_disk_goes_on_when_there_is_room(tmp_path, monkeypatch):
    in_process.run(parse(SHORT), tmp_path / "whole")
    fill_up(monkeypatch, 14)  # after the checkpoint of round 8
    with pytest.raises(StorageError):
        in_process.run(parse(SHORT), tmp_path / "run")
    monkeypatch.undo()
    in_process.run(parse(SHORT | {"resume": str(tmp_path / "run")}), tmp_path / "run")
    whole, run = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "run"))
    assert all((whole[name] == run[name]).all() for name in whole)
