"""A run that stopped goes on as if nothing had happened, to the last bit."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from threading import Event

import pytest
import torch
from flwr.app import Context, RecordDict
from safetensors.torch import save_file
from typer.testing import CliRunner

from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.errors import ConfigError, LaserError, StorageError, TrainingError
from laser_fl.federated import in_process as engine
from laser_fl.federated.server import Server
from laser_fl.storage import checkpoint
from laser_fl.storage.checkpoint import CheckpointError, Checkpoints, load, save
from laser_fl.storage.resume import about, lengthened, refuse_other_run
from laser_fl.transport.messages import read_numbers
from simulations.cli import app
from simulations.cli.runs import going_on
from simulations.engines import in_process
from strategies.server_app import app as server_app
from tests.effort import pairs
from tests.grids import FakeGrid
from tests.helpers import BECOMES_LASER, VARIANTS, Stop, StoppedError

SHORT = {
    "model": "linear", "clients": 5, "batch-size": 16, "rounds": 14, "evaluate-every": 3, "checkpoint-every": 4,
    "momentum": 0.9,
}  # fmt: skip
CASES = {
    **VARIANTS,
    "rank 4": {"rank": 4},
    "becomes laser": BECOMES_LASER | {"downlink": "compressed"},
    "adamw, one cycle": {"optimizer": "adamw", "lr-schedule": "one-cycle", "factor-exchange": "two-phase"},
    "drifting copies": {"downlink": "update", "downlink-power": 1e4},
    "compressed": {"downlink": "compressed", "lr-schedule": "cosine"},
    "compressed silence": {
        "downlink": "compressed",
        "channel": "fading",
        "gain-threshold": 2.0,
        "clients": 3,
        "seed": 9,
    },
    "absences": {"strategy": "random-k", "fraction": 0.6, "dropout-rate": 0.2, "power-policy": "steps-up"},
    "silence": {"channel": "fading", "gain-threshold": 1.0, "spectrum-rank": 2},
    "local steps": {"local-steps": 3, "client-batching": "loop"},
}
KILL = int(os.environ.get("LASER_FL_KILL", "0"))  # chooses when the killed runs are killed
SAME = ("weights.safetensors", "metrics.csv", "ledger.csv")


def run(path, resume=False, callbacks=(), **options):
    values = SHORT | {k.replace("_", "-"): v for k, v in options.items()}
    return in_process.run(parse(values | {"resume": str(path) if resume else ""}), path, callbacks)


def stop(path, after, **options):
    with pytest.raises(StoppedError):
        run(path, callbacks=[Stop(after)], **options)


def same(one, other):
    files = SAME + (("spectrum.csv",) if (one / "spectrum.csv").exists() else ())
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.parametrize(("case", "after"), pairs(CASES, [5, 12]))
def test_a_run_that_stopped_gives_the_run_that_did_not(tmp_path, case, after):
    run(tmp_path / "whole", **CASES[case])
    stop(tmp_path / "run", after, **CASES[case])
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    summary = run(tmp_path / "run", resume=True, **CASES[case])
    assert (summary["status"], summary["rounds"]) == ("completed", 14)
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_run_may_stop_again_and_again(tmp_path):
    run(tmp_path / "whole")
    stop(tmp_path / "run", 6)
    for after in (7, 9, 13):
        with pytest.raises(StoppedError):
            run(tmp_path / "run", resume=True, callbacks=[Stop(after)])
    run(tmp_path / "run", resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.thorough
@pytest.mark.killed
def test_a_killed_process_leaves_what_it_takes_to_go_on(tmp_path):
    """SIGKILL at rounds at random; three of the twenty of which the README tells."""
    program = (
        "import os, signal, sys; from pathlib import Path; from laser_fl.callbacks import Callback\n"
        "from tests.storage.test_resume import run\n"
        "class Kill(Callback):\n"
        "    def on_round(self, server, seconds):\n"
        "        if server.round == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "run(Path(sys.argv[1]), callbacks=[Kill()], strategy=sys.argv[3])"
    )
    draw = random.Random(KILL)
    for i, strategy in enumerate(("laser", "random-k", "z-sgd")):
        run(tmp_path / strategy, strategy=strategy)
        path, after = tmp_path / f"{i}", draw.randint(5, 13)
        killed = subprocess.run([sys.executable, "-c", program, str(path), str(after), strategy], check=False)
        assert killed.returncode == -9
        assert not (path / "summary.json").exists()
        run(path, resume=True, strategy=strategy)
        assert same(tmp_path / strategy, path)


class Stopping(FakeGrid):
    """Breaks off at a round."""

    def __init__(self, nodes, values, at):
        super().__init__(nodes, values)
        self.at = at

    def request(self, messages):
        if read_numbers(messages[0].content).exchange.round == self.at:
            raise StoppedError
        return super().request(messages)


@pytest.mark.parametrize(
    ("case", "own_disk"),
    pairs(["laser", "laser two-phase", "random-k", "drifting copies", "compressed", "absences"], [False, True]),
)
def test_nodes_take_up_what_they_held_where_the_server_goes_on(tmp_path, case, own_disk):
    """They are new to Flower, as after a restart; their snapshots lie in the user's folder, or where their owners say.

    Those of another run lie there, too.
    """

    def go(path, grid, **more):
        values = parse(SHORT | {"client-batching": "loop"} | CASES[case] | {"out-dir": str(path)} | more).to_flat()
        nodes = grid(values)
        if own_disk:
            for node, context in enumerate(nodes.contexts.values()):
                context.node_config["checkpoint-dir"] = str(tmp_path / f"disk-{node}")
        server_app(nodes, Context(1, 0, {}, RecordDict(), values))

    go(tmp_path / "whole", lambda values: FakeGrid(2, values))
    with pytest.raises(StoppedError):
        go(tmp_path / "run", lambda values: Stopping(2, values, 10))
    go(tmp_path / "run", lambda values: FakeGrid(2, values), resume=str(tmp_path / "run"))
    assert same(tmp_path / "whole", tmp_path / "run")
    assert about(tmp_path / "run").nodes == 2  # also where their snapshots are elsewhere
    assert bool(list(tmp_path.glob("disk-*/*/node-*-of-2-*"))) == own_disk


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run and one that stopped after 13 of its 14 rounds."""
    path = tmp_path_factory.mktemp("made")
    run(path / "whole")
    stop(path / "run", 13)
    return path


class TestDamage:
    """The newest checkpoint that is whole serves."""

    @pytest.fixture
    def folder(self, made, tmp_path):
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        return tmp_path / "run" / "checkpoints"

    @pytest.mark.parametrize("kind", ["server", "node-0-of-1"])
    @pytest.mark.parametrize("how", ["truncated", "flipped", "foreign", "empty", "gone"])
    def test_a_damaged_file_makes_the_one_before_it_serve(self, tmp_path, folder, kind, how):
        file = max(folder.glob(f"{kind}-*"))
        content = file.read_bytes()
        if how == "gone":
            file.unlink()
        elif how == "foreign":
            save_file({"w": torch.ones(3)}, file)
        else:
            half = len(content) // 2
            flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
            file.write_bytes({"truncated": content[:half], "flipped": flipped, "empty": b""}[how])
        run(tmp_path / "run", resume=True)
        assert same(tmp_path / "whole", tmp_path / "run")

    def test_where_none_is_left_each_is_named_and_nothing_is_touched(self, tmp_path, folder):
        for file in folder.glob("server-*"):
            file.write_bytes(file.read_bytes()[:-1])
        ledger = (tmp_path / "run" / "ledger.csv").read_bytes()
        with pytest.raises(CheckpointError, match=r"server-00000012.*cannot be read.*server-00000008.*cannot be read"):
            run(tmp_path / "run", resume=True)
        assert (tmp_path / "run" / "ledger.csv").read_bytes() == ledger

    def test_another_version_is_refused_by_name(self, tmp_path, monkeypatch):
        monkeypatch.setattr("laser_fl.storage.checkpoint.VERSION", "4")
        save(tmp_path / "a.safetensors", {}, {"w": torch.ones(2)})
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match=r"a\.safetensors: must be a .* of version 3, got .* of 4"):
            load(tmp_path / "a.safetensors")

    @pytest.mark.usefixtures("folder")
    def test_a_table_that_lost_rows_is_named(self, tmp_path):
        (tmp_path / "run" / "ledger.csv").write_text("round\n")
        with pytest.raises(CheckpointError, match=r"ledger\.csv: must have at least the checkpoint's 12 rows, got 0"):
            run(tmp_path / "run", resume=True)


def test_the_last_two_are_kept_and_come_back_in_their_order(tmp_path):
    kept = Checkpoints(tmp_path / "new", "some")
    tensors = {"b": torch.arange(3), "a": torch.tensor(2.5, dtype=torch.float64), "none": torch.zeros(0, 4)}
    for number in (3, 10, 100):
        kept.save(number, {"at": number, "inf": float("inf")}, tensors)
    assert list(kept.numbers) == [100, 10]
    numbers, read = kept.load(100)
    assert numbers == {"at": 100, "inf": float("inf")}
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == t.dtype for name, t in tensors.items())


class TestInTheBackground:
    @pytest.fixture
    def slow(self, monkeypatch):
        """Keep a checkpoint from being written until the event."""
        event, write = Event(), checkpoint._write

        def wait_and_write(*content):
            assert event.wait(60)
            write(*content)

        monkeypatch.setattr(checkpoint, "_write", wait_and_write)
        return event

    def test_a_checkpoint_holds_the_values_of_when_it_was_saved(self, tmp_path, slow):
        checkpoints = Checkpoints(tmp_path, "some")
        tensors = {"whole": torch.arange(6.0), "turned": torch.arange(6.0).view(2, 3).T}
        expected = {name: tensor.clone() for name, tensor in tensors.items()}
        checkpoints.save(1, {"at": [1]}, tensors, background=True)
        for tensor in tensors.values():
            tensor.zero_()
        slow.set()
        numbers, read = checkpoints.load(1)
        assert numbers == {"at": [1]}
        assert all(torch.equal(read[name], expected[name]) for name in tensors)

    def test_the_next_one_waits_and_the_last_two_are_kept(self, tmp_path, slow):
        checkpoints = Checkpoints(tmp_path, "some")
        checkpoints.save(1, {}, {"a": torch.ones(2)}, background=True)
        assert not list(tmp_path.iterdir())
        slow.set()
        for number in (2, 3, 4):
            checkpoints.save(number, {}, {"a": torch.ones(2)}, background=True)
            assert checkpoints.path(number).is_file()
        assert list(checkpoints.numbers) == [4, 3]

    def test_an_error_is_raised_once_by_what_comes_next(self, tmp_path):
        (tmp_path / "file").write_text("precious")
        checkpoints = Checkpoints(tmp_path / "file", "some")
        checkpoints.save(1, {}, {"a": torch.ones(2)}, background=True)
        with pytest.raises(StorageError, match="cannot be written"):
            checkpoints.wait()
        checkpoints.wait()

    def test_a_runs_checkpoint_is_whole_before_its_clients_save_the_next(self, tmp_path, monkeypatch):
        """Or one that is killed then would have no snapshots of its server's last checkpoint."""
        saved = []
        write = checkpoint._write
        monkeypatch.setattr(checkpoint, "_write", lambda path, *more: (write(path, *more), saved.append(path.name[:4])))
        run(tmp_path / "run", rounds=6, checkpoint_every=2)
        assert saved == ["node", "serv"] * 3

    def test_a_runs_checkpoint_is_written_after_its_clients_which_are_written_aside(self, tmp_path, monkeypatch):
        """Or one that is killed in between would go on without their memories."""
        saved = []
        write, group = checkpoint._write, engine.ClientGroup

        def slowly(path, *more):
            time.sleep(0.05 if path.name.startswith("node") else 0)
            write(path, *more)
            saved.append(path.name[:4])

        monkeypatch.setattr(checkpoint, "_write", slowly)
        monkeypatch.setattr(engine, "ClientGroup", lambda *args, **more: group(*args, **more | {"background": True}))
        run(tmp_path / "aside", rounds=6, checkpoint_every=2)
        assert saved == ["node", "serv"] * 3
        run(tmp_path / "aside", resume=True, rounds=8, checkpoint_every=2)
        monkeypatch.undo()
        run(tmp_path / "whole", rounds=8, checkpoint_every=2)
        assert same(tmp_path / "whole", tmp_path / "aside")

    def test_an_error_of_the_last_one_makes_the_run_a_failed_one(self, tmp_path, monkeypatch):
        """Also where the run ends by a callback between two checkpoints, and nothing else would wait for it."""
        write = checkpoint._write

        class Enough(Callback):
            def on_evaluation(self, server, metrics):
                server.stop("enough")

        def refuse(path, *more):
            if path.name.startswith("server"):
                raise StorageError(f"{path}: cannot be written")
            write(path, *more)

        monkeypatch.setattr(checkpoint, "_write", refuse)
        with pytest.raises(StorageError, match="cannot be written"):
            run(tmp_path / "run", evaluate_every=5, callbacks=[Enough()])
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"

    @pytest.mark.thorough
    @pytest.mark.process
    def test_the_end_of_the_process_waits(self, tmp_path):
        program = (
            "import sys, torch; from pathlib import Path; from laser_fl.storage.checkpoint import Checkpoints; "
            "Checkpoints(Path(sys.argv[1]), 'some').save(1, {}, {'a': torch.ones(1_000_000)}, background=True)"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
        assert Checkpoints(tmp_path, "some").load(1)[1]["a"].sum() == 1_000_000


@pytest.mark.parametrize(("strategy", "at"), pairs(["laser", "z-sgd"], [7, 0]))
def test_a_run_that_is_stuck_stops_with_a_checkpoint_and_goes_on_when_its_clients_are_back(
    tmp_path, monkeypatch, strategy, at
):
    """What they had said already is said again: it is not computed twice."""
    run(tmp_path / "whole", strategy=strategy)
    whole = Server.aggregate

    def deaf(server, replies, faults=()):
        return whole(server, [] if server.round == at else replies, faults)

    monkeypatch.setattr(Server, "aggregate", deaf)
    with pytest.raises(TrainingError, match=f"round {at + 1}: client 0: no reply came; 0 of 5 clients .* in 4 tries"):
        run(tmp_path / "run", strategy=strategy)
    monkeypatch.undo()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    run(tmp_path / "run", resume=True, strategy=strategy)
    assert same(tmp_path / "whole", tmp_path / "run")


class TestTheCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(app, ["run", "--quiet", *arguments])

    def test_goes_on_with_the_runs_own_settings(self, tmp_path, made):
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        done = self.invoke("--resume", str(tmp_path / "run"))
        assert done.exit_code == 0, done.output
        assert same(tmp_path / "whole", tmp_path / "run")

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (
                ["--resume", "nowhere"],
                "resume: must be the folder of a run (config.json: No such file or directory), got 'nowhere'",
            ),
            (
                ["--resume", "run", "-c", "rank=3"],
                "--resume: takes all settings but rounds and epochs from the run, got -c rank, too",
            ),
            (["--resume", "run", "--engine", "flower"], "resume: must go on with the engine in-process, got flower"),
            (["-c", "resume=run", "-c", "rank=3"], "rank: must be 2 as in the run that goes on, got 3"),
        ],
    )
    def test_refuses_what_is_not_that_run(self, tmp_path, made, monkeypatch, arguments, line):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        refused = self.invoke(*arguments)
        assert (refused.exit_code, refused.stderr.strip()) == (2, line)


def summary_of(path):
    summary = json.loads((path / "summary.json").read_text())
    return {key: value for key, value in summary.items() if not key.startswith("seconds")}


LONGER = {
    "laser": {},
    "silence": CASES["silence"],
    "followers": {"downlink": "compressed", "optimizer": "adamw", "client-batching": "loop"},
    "counted in epochs": {"rounds": 0, "epochs": 2, "accumulation-steps": 40, "evaluate-every": 1},
}


class TestLonger:
    """A run that ended, or stopped, is given more rounds."""

    def longer(self, path, length, callbacks=()):
        """What the command does."""
        config = lengthened(about(path).config, length)
        return in_process.run(config, path, callbacks)

    @pytest.mark.parametrize("case", list(LONGER))
    def test_it_is_the_run_that_was_longer_from_the_start(self, tmp_path, case):
        options = LONGER[case]
        before, after = ({"epochs": 2}, {"epochs": 4}) if "epochs" in options else ({"rounds": 7}, {"rounds": 14})
        run(tmp_path / "whole", **options | after)
        run(tmp_path / "run", **options | before)
        self.longer(tmp_path / "run", after)
        assert same(tmp_path / "whole", tmp_path / "run")
        assert summary_of(tmp_path / "whole") == summary_of(tmp_path / "run")
        assert (tmp_path / "whole" / "config.json").read_bytes() == (tmp_path / "run" / "config.json").read_bytes()

    def test_it_may_stop_on_the_way_and_go_on(self, tmp_path):
        """Before the first checkpoint of the rounds that were added."""
        run(tmp_path / "whole")
        run(tmp_path / "run", rounds=7)
        with pytest.raises(StoppedError):
            self.longer(tmp_path / "run", {"rounds": 14}, [Stop(8)])
        assert summary_of(tmp_path / "run")["status"] == "failed"
        self.longer(tmp_path / "run", {})
        assert same(tmp_path / "whole", tmp_path / "run")

    @pytest.mark.parametrize("case", ["laser", "compressed"])
    def test_flowers_nodes_go_on_too(self, tmp_path, case):
        def go(path, **more):
            values = SHORT | {"client-batching": "loop", "downlink": CASES[case].get("downlink", "model")}
            values = parse(values | {"out-dir": str(path)} | more).to_flat()
            server_app(FakeGrid(2, values), Context(1, 0, {}, RecordDict(), values))

        go(tmp_path / "whole")
        go(tmp_path / "run", rounds=7)
        go(tmp_path / "run", resume=str(tmp_path / "run"))
        assert same(tmp_path / "whole", tmp_path / "run")

    def folder(self, path, **values):
        """What is read of a run to say whether it may be longer."""
        path.mkdir()
        config = parse({key.replace("_", "-"): value for key, value in values.items()})
        (path / "config.json").write_text(json.dumps(config.to_flat() | {"rician-k-db": "-inf"}, default=str))
        (path / "environment.json").write_text('{"engine": "in-process"}')
        return path

    @pytest.mark.parametrize(
        ("values", "length", "line"),
        [
            (
                {"lr_schedule": "cosine"},
                {"rounds": 20},
                "rounds: must be 10 .*, whose lr-schedule cosine depends on it",
            ),
            ({"lr_schedule": "step"}, {"rounds": 20}, "rounds: must be 10 .*, whose lr-schedule step depends on it"),
            ({"power_policy": "steps-up"}, {"rounds": 20}, "rounds: .* whose power-policy steps-up depends on it, got"),
            ({"strategy": "laser-adaptive"}, {"rounds": 20}, "rounds: .* whose receiver paced depends on it, got 20"),
            ({}, {"rounds": 9}, "rounds: must be at least 10 as in the run that goes on, got 9"),
            ({}, {"epochs": 90}, "epochs: must be 60 as in .* goes on, which is counted in rounds, got 90"),
            ({"rounds": 0}, {"rounds": 9}, "rounds: must be 0 as in .* goes on, which is counted in epochs, got 9"),
            (
                {"rounds": 0, "lr_schedule": "one-cycle"},
                {"epochs": 90},
                "epochs: must be 60 .* one-cycle depends on it",
            ),
            ({}, {"rounds": "many"}, "rounds: must be a valid integer, got 'many'"),
        ],
    )
    def test_one_line_says_what_is_in_the_way(self, tmp_path, values, length, line):
        path = self.folder(tmp_path / "run", **{"rounds": 10} | values)
        with pytest.raises(ConfigError, match=line) as refused:
            refuse_other_run(path, lengthened(about(path).config, length), "in-process")
        assert "\n" not in str(refused.value)

    def test_it_is_evaluated_as_often_as_before(self, tmp_path):
        path = self.folder(tmp_path / "run", rounds=60)
        longer = lengthened(about(path).config, {"rounds": "600"})
        assert longer.evaluation_interval == about(path).config.evaluation_interval == 3
        refuse_other_run(path, longer, "in-process")
        with pytest.raises(ConfigError, match="evaluate-every: must be 3 as in the run that goes on, got 30"):
            refuse_other_run(path, parse(longer.to_flat() | {"evaluate-every": 0}), "in-process")

    def test_the_command_takes_the_new_length_and_nothing_else(self, tmp_path):
        self.folder(tmp_path / "run", rounds=10)
        settings, engine, _ = going_on(tmp_path / "run", None, None, ["rounds=20"])
        assert (settings.rounds, settings.resume, engine) == (20, str(tmp_path / "run"), "in-process")
        with pytest.raises(
            ConfigError, match="takes all settings but rounds and epochs from the run, got -c seed, too"
        ):
            going_on(tmp_path / "run", None, None, ["rounds=20", "seed=1"])

    def test_where_it_cannot_go_on_what_there_is_stays(self, tmp_path):
        run(tmp_path / "run")
        for file in (tmp_path / "run" / "checkpoints").glob("server-*"):
            file.write_bytes(b"")
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
        with pytest.raises(CheckpointError, match="cannot be read"):
            self.longer(tmp_path / "run", {"rounds": 20})
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_without_checkpoints_there_is_nothing_to_go_on_from(tmp_path):
    stop(tmp_path / "run", 10, checkpoint_every=0)
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(CheckpointError, match="there is no checkpoint to go on from"):
        run(tmp_path / "run", resume=True, checkpoint_every=0)
    assert issubclass(CheckpointError, LaserError)
    with pytest.raises(ConfigError, match="resume: must be the folder of a run"):
        run(tmp_path / "other", resume=True)
