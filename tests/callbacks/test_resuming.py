"""Callbacks go on with a run that stopped, as if nothing had happened."""

import json

import pytest

from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.storage.checkpoint import Checkpoints
from laser_fl.storage.resume import about, lengthened
from simulations.engines import in_process
from tests.helpers import Stop, StoppedError

SHORT = {
    "model": "linear", "clients": 3, "batch-size": 8, "rounds": 24, "evaluate-every": 1, "evaluate-examples": 100,
    "checkpoint-every": 3, "power": 0.01, "momentum": 0.9, "callbacks": "early-stopping,reduce-on-plateau,best-weights",
    "patience": 6, "plateau-patience": 2, "monitor": "test_accuracy",
}  # fmt: skip
SAME = ("weights.safetensors", "metrics.csv", "ledger.csv", "best.safetensors")


def run(path, resume=False, also=(), **options):
    values = SHORT | {k.replace("_", "-"): v for k, v in options.items()}
    return in_process.run(parse(values | {"resume": str(path) if resume else ""}), path, also)


def same(one, other):
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in SAME)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is reduced, and stops early."""
    path = tmp_path_factory.mktemp("whole") / "run"
    summary = run(path)
    assert summary["stopped_early"]
    assert summary["learning_rate_factor"] < 1
    assert 8 < summary["rounds"] < 24
    return path


@pytest.mark.parametrize("after", [4, 8])
def test_a_run_that_goes_on_stops_at_the_same_round_with_the_same_files(tmp_path, whole, after):
    with pytest.raises(StoppedError):
        run(tmp_path / "run", also=[Stop(after)])
    summary = run(tmp_path / "run", resume=True)
    assert summary["stop_reason"] == json.loads((whole / "summary.json").read_text())["stop_reason"]
    assert same(whole, tmp_path / "run")


@pytest.mark.parametrize("more", [{}, {"rounds": 40}])
def test_a_run_that_was_stopped_is_complete(whole, more):
    reason = r"early-stopping: test_accuracy was best, 0\.\d+, 6 evaluations before"
    line = rf"^resume: must be a run that is not complete, got '.*run', which was stopped after round \d+ \({reason}\)$"
    with pytest.raises(ConfigError, match=line):
        in_process.run(lengthened(about(whole).config, more), whole)
    assert json.loads((whole / "summary.json").read_text())["status"] == "completed"


@pytest.mark.parametrize("first", [5, 12])
def test_a_run_that_is_longer_now_is_the_run_that_was_longer_from_the_start(tmp_path, first):
    """Its former end may bring an evaluation that the longer run lacks, or be where that stops."""
    options = {"evaluate_every": 2, "patience": 3, "plateau_patience": 1}
    run(tmp_path / "whole", **options)
    run(tmp_path / "run", rounds=first, **options)
    in_process.run(lengthened(about(tmp_path / "run").config, {"rounds": 24}), tmp_path / "run")
    for file in SAME[:3]:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


class Counting(Callback):
    """Knows how many rounds it has seen."""

    def __init__(self):
        self.seen = 0

    def on_round(self, server, seconds):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


QUIET = {"callbacks": "none", "rounds": 6}


def test_each_of_several_callbacks_of_a_kind_gets_its_own_state(tmp_path):
    first, second = Counting(), Counting()
    second.seen = 100
    with pytest.raises(StoppedError):
        run(tmp_path / "run", also=[first, second, Stop(5)], **QUIET)
    first, second = Counting(), Counting()
    run(tmp_path / "run", True, [first, second], **QUIET)
    assert (first.seen, second.seen) == (6, 106)


def test_a_callback_whose_state_is_kept_must_come_again(tmp_path):
    with pytest.raises(StoppedError):
        run(tmp_path / "run", also=[Counting(), Stop(5)], **QUIET)
    line = "callbacks: must have tests.callbacks.test_resuming:Counting, as in the run that goes on, got none"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        run(tmp_path / "run", resume=True, **QUIET)


def test_a_checkpoint_from_before_there_were_callbacks_still_serves(tmp_path):
    run(tmp_path / "whole", **QUIET)
    with pytest.raises(StoppedError):
        run(tmp_path / "run", also=[Stop(5)], **QUIET)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", "server")
    numbers, tensors = checkpoints.load(3)
    del numbers["callbacks"], numbers["stop_reason"]
    exchange, config, *rest = json.loads(numbers["replica"])
    del config["rate_factor"]
    checkpoints.save(3, numbers | {"replica": json.dumps([exchange, config, *rest])}, tensors)
    run(tmp_path / "run", resume=True, **QUIET)
    for file in SAME[:3]:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_a_run_that_a_callback_has_stopped_does_not_go_on_from_that_checkpoint(tmp_path):
    """It was killed before it could write its summary."""

    class Enough(Callback):
        def on_round(self, server, seconds):
            if server.round == 3:
                server.stop("enough")

    class Kill(Callback):
        def on_checkpoint(self, server):
            raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "run", also=[Enough(), Kill()], **QUIET)
    summary = run(tmp_path / "run", resume=True, **QUIET)
    assert (summary["rounds"], summary["stop_reason"]) == (3, "enough")
