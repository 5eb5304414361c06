"""The tables of a run: rows are added, and what a killed or full machine leaves of one does not count."""

import resource

import pytest

from laser_fl.errors import StorageError
from laser_fl.federated.ledger import Ledger, LedgerRecord, Totals
from laser_fl.storage.checkpoint import CheckpointError
from laser_fl.storage.csv_table import CsvTable
from laser_fl.storage.files import whole_lines

ROWS = [{"round": t, "loss": t / 3, "left_out": "" if t % 2 else f"{t} late; 1, raised"} for t in range(1, 9)]


def filled(path, *counts):
    table, rows = CsvTable(path), iter(ROWS)
    for count in counts:
        table.append([next(rows) for _ in range(count)])
    return table


def test_rows_that_are_added_one_by_one_or_all_at_once_make_the_same_file(tmp_path):
    filled(tmp_path / "one.csv", 1, 1, 0, 3, 1)
    filled(tmp_path / "all.csv", 6)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()
    assert filled(tmp_path / "none.csv", 0).rows == 0
    assert not (tmp_path / "none.csv").exists()


def test_what_is_there_is_not_written_again(tmp_path):
    table = filled(tmp_path / "t.csv", 2)
    before = (tmp_path / "t.csv").stat().st_ino
    table.append(ROWS[2:5])
    assert (tmp_path / "t.csv").stat().st_ino == before
    assert table.rows == 5


def test_what_an_interrupted_call_has_left_is_written_over(tmp_path):
    """As where Ctrl-C comes between writing and knowing it, and the run keeps what there is."""
    table = filled(tmp_path / "t.csv", 3)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("4,1.3333333333333333,4 late; 1, raised and more\n5,1.6")
    table.append(ROWS[3:4])
    filled(tmp_path / "whole.csv", 4)
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_rows_for_which_there_is_no_room_leave_no_trace(tmp_path):
    table = filled(tmp_path / "t.csv", 2)
    before, limits = (tmp_path / "t.csv").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"t\.csv: cannot be written \(File too large\)"):
            table.append(ROWS[2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "t.csv").read_bytes() == before
    table.append(ROWS[2:])
    filled(tmp_path / "whole.csv", len(ROWS))
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_line_that_was_cut_does_not_count(tmp_path):
    """Cut within its last number, it could pass for another one."""
    table = filled(tmp_path / "t.csv", 3)
    content = (tmp_path / "t.csv").read_text()
    (tmp_path / "t.csv").write_text(content[:-3])
    assert whole_lines(tmp_path / "t.csv") == "".join(content.splitlines(keepends=True)[:-1])
    assert [row["round"] for row in table.read(2, dict)] == ["1", "2"]
    with pytest.raises(CheckpointError, match=r"t\.csv: must have at least the checkpoint's 3 rows, got 2"):
        table.read(3, dict)


def test_a_table_with_something_else_in_it_is_named(tmp_path):
    table = filled(tmp_path / "t.csv", 3)
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("0.6666666666666666", "much"))
    with pytest.raises(CheckpointError, match=r"t\.csv: is not what was written \(.*'much'"):
        table.read(3, lambda row: float(row["loss"]))
    with pytest.raises(CheckpointError, match=r"t\.csv: is not what was written"):
        table.read(3, LedgerRecord.parse)


def test_after_a_new_start_the_next_rows_are_the_only_ones(tmp_path):
    table = filled(tmp_path / "t.csv", 5)
    table.start_over()
    table.append(ROWS[:2])
    table.append(ROWS[2:3])
    filled(tmp_path / "whole.csv", 3)
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def entry(round):
    return LedgerRecord(
        round=round, participants=3, transmitters=3, power_budget=1.0, max_power_used=1.0, channel_uses=10 * round,
        uplink_floats=5, downlink_floats=5, side_channel_floats=2, noise_std=0.1, snr_db=3.0,
        uplink_energy=0.1 * round, downlink_energy=0.3, latency_seconds=1e-6 * round, faults=round % 2, retries=1,
        left_out="", clipped=2,
    )  # fmt: skip


def test_totals_are_the_same_whether_added_up_on_the_way_or_read_again():
    ledger = Ledger()
    for round in range(1, 101):
        ledger.append(entry(round))
    assert ledger.totals == Ledger(list(ledger)).totals
    assert (len(ledger), ledger[-1].round, [one.round for one in ledger[97:]]) == (100, 100, [98, 99, 100])
    assert (ledger.totals.channel_uses, ledger.totals.faults, ledger.totals.retries) == (50500, 50, 100)
    assert ledger.totals.uplink_energy == pytest.approx(505)
    assert Ledger().totals == Totals()
