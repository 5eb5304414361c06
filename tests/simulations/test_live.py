"""The live display of a run, and `laser-fl watch`, which attaches to one of another process, or to a finished one."""

import io
import json
import math
import shutil

import pytest
from rich.console import Console
from typer.testing import CliRunner

from laser_fl.callbacks import Metrics
from laser_fl.config import parse
from laser_fl.errors import DataError
from laser_fl.storage.files import lock, unlock
from simulations.chart import Series, chart, sparkline
from simulations.cli import app, runs, watching
from simulations.engines import in_process
from simulations.live import LiveDisplay, LiveRun, Progress, picture
from simulations.watching import FolderReader

KEYS = {"model": "linear", "clients": 4, "batch-size": 4, "rounds": 4, "evaluate-every": 1, "checkpoint-every": 2}
SHORT = [word for key, value in KEYS.items() for word in ("-c", f"{key}={value}")]


def call(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def terminal(**options):
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=30, color_system=None, **options)


def evaluation(round, score):
    return Metrics(round, float(round), 2.0, {"loss": 1.0, "accuracy": score}, {"loss": 1, "accuracy": score}, 1, 1, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of four rounds, each evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    in_process.run(parse(KEYS), folder)
    return folder


class Growing:
    """A run of another process: what it has written after each look at it."""

    def __init__(self, finished, folder):
        self.finished, self.folder, self.looks = finished, folder, 0
        folder.mkdir()
        self.lock = lock(folder)
        shutil.copy(finished / "config.json", folder)

    def write(self, rows, rest=""):
        for name in ("metrics.csv", "ledger.csv", "timing.csv"):
            lines = (self.finished / name).read_text().splitlines()
            (self.folder / name).write_text("\n".join(lines[: rows + 1]) + "\n" + rest)

    def proceed(self):
        self.looks += 1
        if self.looks == 1:
            self.write(1, rest="2,0.0")  # which is read before the line is whole
        elif self.looks == 2:
            self.write(3)
        elif self.looks == 4:
            self.end()

    def end(self):
        self.write(4)
        shutil.copy(self.finished / "summary.json", self.folder)
        unlock(self.folder, self.lock)


@pytest.fixture
def growing(finished, tmp_path, monkeypatch):
    run = Growing(finished, tmp_path / "run")
    monkeypatch.setattr(watching, "_pause", run.proceed)
    return run


class TestWatch:
    def test_a_finished_run_is_shown_with_its_result(self, finished):
        result = call("watch", finished)
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert [line.split()[1] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
        assert lines[4] == "laser: mnist-5k, linear, 4 clients, 4 rounds"
        assert lines[5].startswith("accuracy")

    def test_a_run_that_goes_on_is_shown_as_it_grows_and_to_its_end(self, growing):
        result = call("watch", growing.folder)
        assert (result.exit_code, growing.looks) == (0, 4)
        lines = result.stdout.splitlines()
        assert [line.split()[1] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
        assert lines[4].startswith("laser: mnist-5k")

    def test_a_terminal_has_curve_snr_and_time_left(self, growing, monkeypatch):
        screen = terminal()
        monkeypatch.setattr(watching, "console", screen)
        assert call("watch", growing.folder).exit_code == 0
        shown = screen.file.getvalue()
        assert "test accuracy" in shown
        assert "round 4/4" in shown
        assert "SNR -" in shown

    def test_a_run_that_was_killed_is_said_to_be_so(self, growing):
        growing.write(2)
        unlock(growing.folder, growing.lock)
        result = call("watch", growing.folder)
        assert result.exit_code == 1
        assert result.stderr == f"{growing.folder}: was killed, its records end with round 2\n"
        (growing.folder / "checkpoints").mkdir()
        (growing.folder / "checkpoints" / "server-00000002.safetensors").touch()
        again = call("watch", growing.folder).stderr
        assert again.endswith(f"round 2; laser-fl run --resume {growing.folder} goes on from its last checkpoint\n")

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_a_run_that_failed_has_its_reason_and_status_1(self, growing, status):
        unlock(growing.folder, growing.lock)
        summary = {"status": status, "reason": "round 2: no", "engine": "in-process"}
        (growing.folder / "summary.json").write_text(json.dumps(summary))
        result = call("watch", growing.folder)
        assert result.exit_code == 1
        assert " ".join(result.stdout.splitlines()[1].split()) == f"{status} round 2: no"

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path):
        for folder in (tmp_path, tmp_path / "absent"):
            result = call("watch", folder)
            line = f"DIR: must be the folder of a run (config.json is missing), got {str(folder)!r}\n"
            assert (result.exit_code, result.stderr, result.stdout) == (2, line, "")

    @pytest.mark.parametrize("name", ["config.json", "metrics.csv", "summary.json", "timing.csv"])
    def test_a_damaged_file_is_named(self, growing, name):
        growing.write(2)
        (growing.folder / name).write_text("[1]\nx\n")
        result = call("watch", growing.folder)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert str(growing.folder) in result.stderr

    def test_the_length_in_rounds_follows_from_the_first_evaluation(self, tmp_path):
        in_process.run(parse({"model": "linear", "clients": 4, "batch-size": 500, "epochs": 3}), tmp_path / "run")
        (tmp_path / "run" / "metrics.csv").rename(tmp_path / "metrics.csv")
        assert FolderReader(tmp_path / "run").progress().rounds is None
        (tmp_path / "metrics.csv").rename(tmp_path / "run" / "metrics.csv")
        assert FolderReader(tmp_path / "run").progress().rounds == 6

    def test_nothing_is_read_twice(self, finished):
        reader = FolderReader(finished)
        assert reader.progress() is reader.progress()


class TestRunLive:
    def test_a_terminal_has_curve_snr_and_time_left(self, tmp_path, monkeypatch):
        screen = terminal()
        monkeypatch.setattr(runs, "errors", screen)
        result = call("run", "--live", *SHORT, "--out", tmp_path / "run")
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "laser: mnist-5k, linear, 4 clients, 4 rounds")
        shown = screen.file.getvalue()
        assert "round 4/4" in shown
        assert "0:00:00 left" in shown
        assert "SNR -" in shown

    def test_other_engines_are_drawn_from_the_folder(self, tmp_path, monkeypatch, finished):
        screen = terminal()
        monkeypatch.setattr(runs, "errors", screen)

        def run(settings, folder, nodes, quiet):
            assert quiet
            shutil.copytree(finished, folder)
            return json.loads((folder / "summary.json").read_text())

        monkeypatch.setattr(runs, "_run_on_flower", run)
        assert call("run", "--live", "--engine", "flower", *SHORT, "--out", tmp_path / "run").exit_code == 0
        assert "round 4/4" in screen.file.getvalue()

    def test_without_a_terminal_lines_are_printed_as_ever(self, tmp_path):
        result = call("run", "--live", *SHORT, "--out", tmp_path / "run")
        assert len(result.stderr.splitlines()) == 4
        assert result.stderr.startswith("laser  round 1/4")

    def test_live_and_quiet_exclude_each_other(self):
        result = call("run", "--live", "--quiet")
        assert (result.exit_code, result.stderr) == (2, "--live: must go without --quiet, got both\n")

    def test_a_run_that_goes_on_has_its_whole_curve(self, tmp_path):
        in_process.run(parse(KEYS), tmp_path / "run")
        drawn = LiveRun("laser")
        assert drawn.progress() is None
        longer = parse(KEYS | {"rounds": 6, "resume": str(tmp_path / "run")})
        in_process.run(longer, tmp_path / "run", [drawn])
        progress = drawn.progress()
        assert [one.round for one in progress.evaluations] == [1, 2, 3, 4, 5, 6]
        assert (progress.round, progress.rounds, len(progress.snrs), len(progress.seconds)) == (6, 6, 6, 2)

    def test_a_damaged_file_does_not_end_the_display(self):
        def source():
            raise DataError("metrics.csv: must be readable")

        screen = terminal()
        with LiveDisplay(screen, source) as display:
            display.note("round 3: left out client 2")
        assert "metrics.csv: must be readable" in screen.file.getvalue()
        assert "left out client 2" in screen.file.getvalue()


class TestPicture:
    def lines(self, width=60, plain=False, **changed):
        scores = [evaluation(round, score) for round, score in ((10, 0.1), (20, 0.9))]
        values = {"evaluations": scores, "snrs": [-20.0, -10.0], "seconds": [0.5, 0.5]} | changed
        return [line.plain for line in picture(Progress("laser", 20, 40, **values), width, 6, plain)]

    def test_it_has_score_curve_pace_time_left_and_snr(self):
        head, *curve, pace, snr = self.lines()
        assert head == "laser  test accuracy 90.0 %, 90.0 % with averaged weights"
        assert len(curve) == 6
        assert curve[0].startswith("90.0 % │")
        assert curve[-1].startswith("10.0 % │")
        assert pace == "round 20/40  2 rounds/s  0:00:10 left"
        assert snr == "SNR -10.0 dB  ▁█  last 2 rounds"

    @pytest.mark.parametrize("width", [24, 40, 80, 100])
    def test_it_is_as_wide_as_there_is_room(self, width):
        assert all(len(line) <= width for line in self.lines(width)[1:7])

    def test_ascii_terminals_get_ascii(self):
        assert all(line.isascii() for line in self.lines(plain=True))

    def test_without_room_or_evaluations_there_is_no_chart(self):
        assert len(self.lines(width=20)) == 2
        assert len(self.lines(evaluations=())) == 2

    def test_what_is_not_known_is_left_out(self):
        assert self.lines(evaluations=(), seconds=(), snrs=[math.inf]) == ["round 20/40", "SNR: no noise"]
        assert self.lines(evaluations=(), seconds=(), snrs=[-math.inf]) == ["round 20/40"]
        assert Progress("laser", 1, None, seconds=[1.0]).time_left is None


class TestChart:
    def drawn(self, ys, height=4, plain=True):
        curve = Series(range(1, len(ys) + 1), ys, "red", "o")
        return [line.plain for line in chart([curve], len(ys), 14, height, lambda y: f"{y:g}", plain)]

    def test_a_rising_curve_goes_from_the_lower_left_to_the_upper_right(self):
        lines = self.drawn([0, 1, 2, 3])
        columns = [line.index("o") for line in lines]
        assert columns == sorted(columns, reverse=True)
        assert (lines[0][0], lines[-1][0]) == ("3", "0")

    def test_a_jump_has_no_gap(self):
        assert all("o" in line for line in self.drawn([0, 100], height=8))

    def test_a_level_curve_and_a_single_point_are_drawn(self):
        assert sum("o" in line for line in self.drawn([1, 1])) == 1
        assert sum("o" in line for line in self.drawn([1])) == 1

    def test_curves_of_dots_lie_over_each_other(self):
        curves = [Series([0, 1], [0, 1], "red"), Series([0, 1], [1, 0], "blue")]
        lines = chart(curves, 1, 20, 4, lambda y: f"{y:g}", plain=False)
        assert {span.style for line in lines for span in line.spans} >= {"red", "blue"}

    def test_sparklines_show_the_last_values(self):
        assert sparkline([9, 0, 1, 2], 3, plain=False) == "▁▄█"
        assert sparkline([5, 5], 8, plain=True) == "__"
