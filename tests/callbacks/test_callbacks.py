"""Callbacks: the built-in ones, the key that chooses some, errors, and that all engines call them."""

import json
import pickle
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import laser_fl as lf
from laser_fl.callbacks import BestWeights, Callback, EarlyStopping, ReduceOnPlateau, built
from laser_fl.config import parse, parse_all
from laser_fl.errors import ConfigError, DataError, TrainingError
from laser_fl.federated.loop import train
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.storage.run_folder import RunFolder
from simulations.engines import in_process
from tests.grids import run_config, run_on_grid
from tests.helpers import aggregate
from tests.parts import visiting

GRADIENTS = {"w": torch.ones(2, 3)}
REAL = {"model": "linear", "clients": 3, "batch-size": 8, "rounds": 12, "evaluate-every": 1, "evaluate-examples": 100}


def tiny(scores, *callbacks, every=1, folder=None, **keys):
    """Run two clients with constant gradients; the accuracy after a round is the next of `scores`."""
    rounds = len(scores)
    config = parse(
        {"strategy": "sgd", "clients": 2, "rounds": rounds} | {k.replace("_", "-"): v for k, v in keys.items()}
    )
    server = Server(config, {"w": torch.zeros(3)}, RoundSchedule(rounds, evaluate_every=every))

    def advance():
        update, _ = encode_update(server.broadcast(), GRADIENTS, torch.ones(2).double(), {})
        return aggregate(server, update)

    def evaluate(tensors):
        return {"loss": 1 - scores[server.round - 1], "accuracy": scores[server.round - 1]}

    files = [] if folder is None else [RunFolder(folder, config, "by hand", callbacks)]
    train(server, advance, evaluate, [*files, *callbacks])
    return server


class TestEarlyStopping:
    @pytest.mark.parametrize(
        ("scores", "options", "rounds"),
        [
            ([0.1, 0.2, 0.2, 0.2, 0.9], {"patience": 2}, 4),
            ([0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.9], {"patience": 2}, 6),
            ([0.1, 0.2, 0.25, 0.3, 0.9], {"patience": 1, "min_delta": 0.07}, 3),
            ([0.1, 0.2, 0.2, 0.9], {"patience": 1, "monitor": "test_loss"}, 3),
            ([0.5, 0.4, 0.3, 0.2], {"patience": 5}, 4),
        ],
    )
    def test_a_run_ends_after_so_many_evaluations_without_a_better_score(self, scores, options, rounds):
        server = tiny(scores, EarlyStopping(**options))
        assert (server.round, len(server.ledger), bool(server.stop_reason)) == (rounds, rounds, rounds < len(scores))

    def test_less_is_better_for_a_loss(self):
        assert tiny([0.1, 0.2, 0.3, 0.4], EarlyStopping(patience=1, monitor="ema_test_loss")).round == 4

    def test_a_run_that_has_done_all_its_rounds_did_not_stop_early(self):
        assert tiny([0.2, 0.1, 0.1], EarlyStopping(patience=2)).stop_reason == ""

    def test_an_object_begins_anew_in_the_next_run(self):
        callback = EarlyStopping(patience=2)
        rounds = [tiny(scores, callback).round for scores in ([0.9, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4])]
        assert rounds == [3, 4]

    def test_an_unknown_score_is_refused_with_those_that_are_known(self):
        known = "test_loss, test_accuracy, ema_test_loss, ema_test_accuracy"
        with pytest.raises(
            ConfigError, match=f"^monitor: must be one of {known}, got 'accuracy', did you mean test_accuracy"
        ):
            tiny([0.1], EarlyStopping(monitor="accuracy"))

    def test_options_are_checked_in_python_too(self):
        with pytest.raises(ConfigError, match=r"^patience: must be greater than or equal to 1, got 0$"):
            EarlyStopping(patience=0)


class TestReduceOnPlateau:
    def test_later_steps_are_smaller_by_the_factor(self):
        callback = ReduceOnPlateau(plateau_patience=2, plateau_factor=0.5)
        server = tiny([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], callback, learning_rate=1.0)
        assert server.global_model.weights["w"].tolist() == [-(1 + 1 + 1 + 0.5 + 0.5 + 0.25)] * 3

    @pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step"])
    def test_the_factor_multiplies_every_schedule(self, schedule):
        class Rates(Callback):
            def __init__(self):
                self.rates = []

            def on_round(self, server, seconds):
                self.rates += server.global_model.replica.rates

        plain, reduced = Rates(), Rates()
        tiny([0.1] * 8, plain, lr_schedule=schedule)
        tiny([0.1] * 8, reduced, ReduceOnPlateau(plateau_patience=4, plateau_factor=0.25), lr_schedule=schedule)
        assert reduced.rates == plain.rates[:5] + [rate * 0.25 for rate in plain.rates[5:]]

    def test_nodes_that_compute_the_model_by_themselves_step_alike(self, tmp_path):
        keys = {"callbacks": "reduce-on-plateau", "plateau-patience": 1, "power": 0.01, "momentum": 0.9}
        for downlink in ("model", "compressed"):
            summary = in_process.run(parse(REAL | keys | {"downlink": downlink}), tmp_path / downlink)
            assert summary["learning_rate_factor"] < 1
        for file in ("weights.safetensors", "metrics.csv"):
            assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "compressed" / file).read_bytes()
        sent = pd.read_csv(tmp_path / "compressed" / "ledger.csv").downlink_floats
        assert (sent > 7850).sum() > 1  # the whole state at the start, and after each reduction


class TestBestWeights:
    SCORES = (0.1, 0.3, 0.2, 0.3)

    @pytest.mark.parametrize(("monitor", "averaged"), [("", True), ("test_accuracy", False)])
    def test_the_folder_has_the_weights_of_the_best_evaluation(self, tmp_path, monitor, averaged):
        class Seen(Callback):
            def on_evaluation(self, server, metrics):
                if metrics.round == 2:
                    model = server.global_model
                    self.weights = {n: t.clone() for n, t in (model.averaged if averaged else model.tensors).items()}

        seen, best = Seen(), BestWeights(monitor=monitor)
        tiny(self.SCORES, seen, best, folder=tmp_path / "run")
        file = tmp_path / "run" / "best.safetensors"
        assert torch.equal(load_file(file)["w"], seen.weights["w"])
        assert torch.equal(best.weights["w"], seen.weights["w"])
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["best"])
        assert about == {"round": 2, "score": monitor or "ema_test_accuracy", "value": 0.3}

    def test_without_a_folder_the_object_has_them(self):
        callback = BestWeights(monitor="test_accuracy")
        tiny(self.SCORES, callback, learning_rate=1.0)
        assert (callback.best, callback.weights["w"].tolist()) == (0.3, [-2.0] * 3)


class TestStopping:
    def test_the_last_round_is_evaluated_and_the_run_completed(self, tmp_path):
        class Stop(Callback):
            def on_round(self, server, seconds):
                if server.round == 5:
                    server.stop("enough")

        summary = in_process.run(parse(REAL | {"evaluate-every": 4}), tmp_path / "run", [Stop()])
        about = {"status": "completed", "stopped_early": True, "stop_reason": "enough", "rounds": 5}
        assert {key: summary[key] for key in about} == about
        assert pd.read_csv(tmp_path / "run" / "metrics.csv")["round"].tolist() == [4, 5]
        assert len(pd.read_csv(tmp_path / "run" / "ledger.csv")) == 5
        assert (tmp_path / "run" / "weights.safetensors").exists()

    def test_the_flower_server_app_builds_the_same_callbacks_from_the_key(self, tmp_path):
        keys = {"callbacks": "early-stopping,best-weights", "patience": 1, "power": 0.01, "evaluate_every": 1}
        run_on_grid(run_config(tmp_path / "grid", client_batching="loop", **keys), 2)
        in_process.run(run_config(tmp_path / "direct", client_batching="loop", **keys), tmp_path / "direct")
        for file in ("metrics.csv", "ledger.csv", "weights.safetensors", "best.safetensors"):
            assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
        summary = json.loads((tmp_path / "grid" / "summary.json").read_text())
        assert (summary["status"], summary["stopped_early"]) == ("completed", True)
        assert summary["rounds"] < 6


class Broken(Callback):
    def __init__(self, error):
        self.error = error

    def on_evaluation(self, server, metrics):
        raise self.error


class TestErrors:
    def test_an_error_becomes_one_line_and_the_folder_keeps_what_there_was(self, tmp_path):
        line = r"^callback tests.callbacks.test_callbacks:Broken: on_evaluation raised ValueError: so many lines$"
        with pytest.raises(TrainingError, match=line):
            in_process.run(parse(REAL), tmp_path / "run", [Broken(ValueError("so many\nlines"))])
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("failed", 1)
        assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("data: must be here")])
    def test_an_interruption_and_errors_of_the_project_pass_as_they_are(self, error):
        with pytest.raises(type(error)) as raised:
            tiny([0.1], Broken(error))
        assert raised.value is error

    def test_a_state_that_json_cannot_carry_is_refused(self, tmp_path):
        class Heavy(Callback):
            def state_dict(self):
                return {"weights": torch.zeros(2)}

        with pytest.raises(TrainingError, match=r"Heavy: its state_dict must return what JSON can carry"):
            tiny([0.1], Heavy(), folder=tmp_path / "run")


OWN = """
from dataclasses import dataclass
import laser_fl as lf
from laser_fl.callbacks import Callback
@dataclass
class Telegram(Callback):
    chat: str = lf.option("me", "receiver")
    def on_evaluation(self, server, metrics):
        print(f"{self.chat}: {metrics.round}")
class Needy(Callback):
    def __init__(self, chat): pass
class Foreign: pass
class Short(Callback):
    def on_round(self, server): pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in a folder with a module of callbacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text(OWN)
    with visiting(tmp_path):
        yield tmp_path


class TestTheKey:
    def test_it_names_several_with_their_options(self):
        config = parse({"callbacks": " early-stopping , best-weights", "patience": "7", "monitor": "test_loss"})
        assert config.callbacks == "early-stopping,best-weights"
        first, second = built(config)
        assert (type(first), first.patience, first.monitor) == (EarlyStopping, 7, "test_loss")
        assert (type(second), second.monitor) == (BestWeights, "test_loss")

    def test_by_default_nothing_reacts(self):
        (only,) = built(parse({}))
        assert type(only) is Callback

    @pytest.mark.parametrize(
        ("values", "line"),
        [
            (
                {"callbacks": "early-stoping"},
                "callbacks: must be one of none, early-stopping, reduce-on-plateau, best-weights, or several with "
                "commas between, got 'early-stoping', did you mean early-stopping?",
            ),
            (
                {"callbacks": "best-weights,best-weights"},
                "callbacks: must be names that differ, got 'best-weights,best-weights'",
            ),
            ({"callbacks": "early-stopping", "patience": 0}, "patience: must be greater than or equal to 1, got 0"),
            ({"plateau-factor": 1}, "plateau-factor: must be less than 1, got 1"),
            (
                {"callbacks": "early-stopping,plugin:Foreign"},
                "callbacks: plugin:Foreign must be a subclass of laser_fl.callbacks.base:Callback, got Foreign",
            ),
            (
                {"callbacks": "plugin:Needy"},
                "callbacks: plugin:Needy: its argument chat must be an option, declared by laser_fl.option",
            ),
            (
                {"callbacks": "plugin:Short"},
                "callbacks: plugin:Short: its on_round must take (self, server, seconds), takes (self, server)",
            ),
            ({"callbacks": "plugin:Gone"}, "callbacks: the module plugin has no Gone"),
            ({"callbacks": "early-stopping", "chat": "you"}, "chat: unknown key"),
        ],
    )
    def test_a_misfit_is_refused_in_one_line(self, here, values, line):
        with pytest.raises(ConfigError) as refusal:
            parse(values)
        assert str(refusal.value).partition("; known")[0] == line

    def test_an_own_callback_is_called_with_its_options(self, here, capsys):
        keys = {"callbacks": "early-stopping,plugin:Telegram", "chat": "you", "rounds": 2}
        in_process.run(parse(REAL | keys), here / "run")
        assert capsys.readouterr().out == "you: 1\nyou: 2\n"

    def test_an_own_callback_goes_to_other_processes(self, here):
        config = parse({"callbacks": "best-weights,plugin:Telegram", "chat": "you"})
        again = pickle.loads(pickle.dumps(config))
        assert again == config
        assert [type(one).__name__ for one in built(again)] == ["BestWeights", "Telegram"]

    def test_a_sweep_leaves_the_options_of_an_own_callback_to_the_runs_that_choose_it(self, here):
        both = parse_all([{"callbacks": names, "chat": "you"} for names in ("none", "best-weights,plugin:Telegram")])
        assert [len(built(config)) for config in both] == [1, 2]
        assert "chat" not in both[0].to_flat()
        assert both[1].to_flat()["chat"] == "you"


class TestInPython:
    DATA = torch.eye(4), torch.arange(4) % 2

    def train(self, callbacks, **keys):
        options = {"strategy": "sgd", "clients": 2, "batch_size": 2, "rounds": 9, "evaluate_every": 1}
        return lf.train(torch.nn.Linear(4, 2), self.DATA, self.DATA, callbacks=callbacks, **options | keys)

    def test_names_and_objects_are_both_called(self):
        best = BestWeights()
        result = self.train(["early-stopping", best], patience=1, learning_rate=1e-6)
        assert result.summary["stopped_early"]
        assert len(result.metrics) == len(result.ledger) < 9
        assert best.weights.keys() == {"weight", "bias"}

    def test_one_name_is_a_text(self):
        assert self.train("early-stopping", patience=1, learning_rate=1e-6).config.callbacks == "early-stopping"

    @pytest.mark.parametrize(
        ("given", "line"),
        [
            ([EarlyStopping], r"got <class .*>: write EarlyStopping\(\)"),
            ([3], "got 3"),
        ],
    )
    def test_anything_else_is_refused(self, given, line):
        with pytest.raises(ConfigError, match=f"^callbacks: must be names or objects of Callback, {line}$"):
            self.train(given)

    def test_several_runs_share_an_object(self):
        @dataclass
        class Count(Callback):
            begun: int = 0

            def on_begin(self, server):
                self.begun += 1

        count = Count()
        options = {"clients": 2, "batch_size": 2, "rounds": 2}
        lf.compare(
            torch.nn.Linear(4, 2), self.DATA, self.DATA, strategies=["sgd", "z-sgd"], callbacks=[count], **options
        )
        assert count.begun == 2
