"""Metrics: the ones that a task takes, their direction, and how they are measured on odd or few examples."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

import laser_fl as lf
from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.metrics import IGNORED, Accuracy, Metric, named_metrics
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError, TrainingError
from laser_fl.federated.evaluation import _batch_size, client_scores, evaluate
from tests.standins import CUDA, counting, there

INPUTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS.sum(dim=1) > 0).long()
DATA = INPUTS, LABELS
OPTIONS = {"clients": 2, "batch_size": 4, "rounds": 2, "seed": 1}


def linear(outputs=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Linear(3, outputs)


def logits(outputs, targets):
    return binary_cross_entropy_with_logits(outputs[:, 0], targets.float())


def needs_both_classes(outputs, targets):
    if len(targets.unique()) < 2:
        raise ValueError("only one class")
    return (outputs.argmax(dim=-1) == targets).float().mean()


def nan_without_both_classes(outputs, targets):
    return (outputs.argmax(dim=-1) == targets).float().mean() if len(targets.unique()) == 2 else math.nan


def scores_of(data, **facts):
    task, model = Task(data, data, linear, **facts), linear()
    return evaluate(task, model, dict(model.named_parameters()), parse({}))


class TestChosen:
    def test_one_object_is_measured(self):
        result = lf.train(linear(), DATA, DATA, metrics=MulticlassF1Score(2), **OPTIONS)
        assert result.metric == "multiclass_f1_score"

    def test_a_collection_stands_for_its_metrics(self):
        given = MetricCollection({"MyF1": MulticlassF1Score(2), "top": MulticlassAccuracy(2)})
        assert list(named_metrics(given)) == list(named_metrics([given])) == ["my_f1", "top"]
        assert {"loss", "my_f1", "top"} == set(scores_of(DATA, metrics=given))

    def test_less_is_better_in_a_collection_of_errors(self):
        (name,) = named_metrics(MetricCollection([MeanSquaredError()]))
        assert Metric.named(name) == Metric("mean_squared_error", min)

    def test_a_class_is_refused(self):
        with pytest.raises(ConfigError, match=r"must be an object: write MulticlassF1Score\(\.\.\.\)$"):
            named_metrics(MulticlassF1Score)

    def test_auto_is_the_accuracy_of_integers_with_the_usual_loss_only(self):
        numbers = INPUTS, INPUTS[:, :1]
        cases = [(DATA, {}), (DATA, {"loss": logits}), (numbers, {"loss": torch.nn.functional.mse_loss})]
        assert [Task(data, data, linear, **facts).metric.name for data, facts in cases] == ["accuracy", "loss", "loss"]
        result = lf.train(linear(1), DATA, DATA, loss=logits, **OPTIONS)
        assert "test_accuracy" not in result.summary

    @pytest.mark.parametrize("outputs", [(4, 1), (4, 2, 2)])
    def test_the_accuracy_of_other_outputs_is_refused_with_a_remedy(self, outputs):
        with pytest.raises(DataError, match="for the accuracy; metrics= chooses another") as refused:
            Accuracy().update(torch.zeros(outputs), torch.zeros(4, dtype=torch.long))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mse", "val_RMSE", "wer", "bce_top", "loss", "mean_squared_error"])
def test_less_is_better_by_its_name(name):
    assert Metric.named(name).best is min


@pytest.mark.parametrize("name", ["amse", "answer", "fidelity", "f1", "accuracy"])
def test_more_is_better_by_its_name(name):
    assert Metric.named(name).best is max


@pytest.mark.parametrize(
    ("name", "scores", "scale"),
    [
        ("mse", [0.5, 2.0], "log"),
        ("mse", [0.5, 0.0], "linear"),
        ("f1", [0.5, 0.9], "linear"),
        ("accuracy", [9], "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_that_can_be_read(name, scores, scale):
    axes = Figure().subplots()
    axes.plot(scores)
    assert Metric.named(name).scale(axes) == scale


class TestIgnoredTargets:
    def test_the_others_count_alone(self):
        targets = LABELS.clone()
        targets[:9] = IGNORED
        scores = scores_of((INPUTS, targets), evaluation_batch=4)  # two batches have no other targets
        outputs = linear()(INPUTS[9:])
        assert scores["loss"] == pytest.approx(cross_entropy(outputs, LABELS[9:]).item(), rel=1e-5)
        assert scores["accuracy"] == pytest.approx((outputs.argmax(dim=1) == LABELS[9:]).float().mean().item())

    def test_one_of_the_others_is_needed(self):
        with pytest.raises(DataError, match=r"targets: must have some other than -100, .* got none"):
            scores_of((INPUTS, torch.full_like(LABELS, IGNORED)))

    def test_an_own_loss_counts_all(self):
        targets = torch.full((24, 1), float(IGNORED))
        loss = torch.nn.functional.mse_loss
        scores = scores_of((INPUTS, targets), loss=lambda o, t: loss(o[:, :1], t), metrics=lambda o, t: o.mean() * 0)
        assert scores["loss"] > 0


class TestFewExamples:
    def test_a_metric_that_the_first_two_do_not_allow_is_tried_on_all(self):
        order = LABELS.argsort()
        data = INPUTS[order], LABELS[order]
        result = lf.train(linear(), DATA, data, metrics=needs_both_classes, **OPTIONS)
        assert 0 <= result.summary["test_needs_both_classes"] <= 1

    def test_a_metric_that_all_do_not_allow_is_refused(self):
        with pytest.raises(DataError, match="metric needs_both_classes: raised ValueError: only one class"):
            lf.train(linear(), DATA, (INPUTS, LABELS * 0), metrics=needs_both_classes, **OPTIONS)

    def clients(self, labels, metrics):
        """Score three clients, of 8 examples each, 4 of which are held out."""
        train = Examples(INPUTS, labels, torch.arange(3).repeat_interleave(8))
        task, model = Task(train, DATA, linear, metrics=metrics), linear()
        config = parse({"clients": 3, "evaluate-clients": 0.5, "partition": "by-column", "batch-size": 1})
        return client_scores(task, model, dict(model.named_parameters()), config)

    @pytest.mark.parametrize("metric", [needs_both_classes, nan_without_both_classes])
    def test_clients_without_a_metric_are_left_out_of_it(self, metric):
        labels = torch.cat([LABELS[:8], torch.zeros(8), torch.ones(8)]).long()
        scores = self.clients(labels, {"accuracy": "accuracy", "both": metric})
        assert scores["clients_both_spread"] == 0
        assert scores["clients_both_mean"] == scores["clients_both_worst_decile"]
        assert scores["clients_accuracy_spread"] > 0

    def test_a_metric_that_no_client_allows_is_refused(self):
        line = "both must be computable for at least one client, got none: metric both: raised ValueError"
        with pytest.raises(DataError, match=f"^evaluate-clients: {line}"):
            self.clients(LABELS * 0, {"both": needs_both_classes})


def test_a_metric_that_is_not_finite_does_not_mean_that_the_model_diverges():
    with pytest.raises(TrainingError, match=r"round 1: the metric test_odd is nan$"):
        lf.train(linear(), DATA, DATA, metrics={"odd": lambda o, t: math.nan}, **OPTIONS)


def test_a_metric_that_raises_where_the_model_diverges_does_not_hide_that():
    def finite(outputs, targets):
        if not outputs.isfinite().all():
            raise ValueError("input contains nan")
        return 1.0

    task, model = Task(DATA, DATA, linear, metrics=finite), linear()
    state = {name: torch.full_like(weight, math.nan) for name, weight in model.named_parameters()}
    scores = evaluate(task, model, state, parse({}))
    assert math.isnan(scores["loss"])
    assert math.isnan(scores["finite"])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"ppl": "perplexity"}, "metrics: perplexity must keep its name, got 'ppl'"),
        ({"loss": lambda outputs, targets: 1.0}, "metrics: must have another name than loss, .* got 'loss'"),
    ],
)
def test_names_of_what_follows_from_the_loss_are_its_own(given, line):
    with pytest.raises(ConfigError, match=line):
        named_metrics(given)


def test_less_spread_over_the_clients_is_better():
    assert Metric.named("clients_accuracy_spread").best is min
    assert Metric.named("clients_accuracy_mean").best is max


class TestOnAGpu:
    def scores_and_waits(self, batch, monkeypatch):
        model, config = linear(), parse({})
        metrics = {"accuracy": "accuracy", "mean": lambda outputs, targets: outputs.mean()}
        task = Task(DATA, DATA, linear, metrics=metrics, evaluation_batch=batch)
        expected = evaluate(task, model, dict(model.named_parameters()), config)
        with counting(monkeypatch) as counts, torch.no_grad():
            state = {name: there(weight) for name, weight in model.named_parameters()}
            on_gpu = task.to(CUDA)
            counts.waited.clear()
            scores = evaluate(on_gpu, model, state, config)
        return expected, scores, counts.waits

    def test_an_evaluation_waits_once_for_each_score_however_many_batches_it_has(self, monkeypatch):
        expected, scores, waits = self.scores_and_waits(1, monkeypatch)  # 6 batches of 4 times as many
        assert scores == pytest.approx(expected, rel=1e-6)
        assert waits == self.scores_and_waits(24, monkeypatch)[2] == 3

    @pytest.mark.parametrize(("size", "on_gpu"), [(2, 8), (500, 2000), (1000, 2048), (5000, 5000)])
    def test_forward_passes_take_more_examples(self, size, on_gpu):
        task = Task(DATA, DATA, linear, evaluation_batch=size)
        assert [_batch_size(task, torch.device(kind)) for kind in ("cpu", "cuda")] == [size, on_gpu]
