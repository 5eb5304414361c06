"""Data in the forms in which people have them; and what cannot be trained on is refused in one line."""

import json
import random

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, default_collate

import laser_fl as lf
from laser_fl.data import adapters
from laser_fl.data.adapters import as_data
from laser_fl.data.examples import Examples
from laser_fl.data.streamed import Streamed
from laser_fl.data.trees import tensors_of
from laser_fl.errors import DataError

INPUTS, LABELS = torch.randn(12, 4), torch.arange(12) % 3


class Listed(Dataset):
    """Examples from a list."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, row):
        if isinstance(self.examples[row], Exception):
            raise self.examples[row]
        return self.examples[row]


class Drawn(Listed):
    """Examples that are augmented at random, anew each time."""

    def __getitem__(self, row):
        inputs, target = self.examples[row]
        return inputs + (float(torch.rand(())) + np.random.rand()), target


class Rare(Listed):
    """Examples that are augmented with a small chance, so that the first one comes out the same."""

    def __init__(self, examples, draw):
        super().__init__(examples)
        self.draw = draw

    def __getitem__(self, row):
        inputs, target = self.examples[row]
        return (inputs.flip(0) if self.draw() < 1e-9 else inputs), target


PAIRS = [(x, int(y)) for x, y in zip(INPUTS, LABELS, strict=True)]
RAGGED = [(torch.ones(2 + row % 3, 4), row % 3) for row in range(12)]


def padded(examples):
    longest = max(len(inputs) for inputs, _ in examples)
    rows = [torch.nn.functional.pad(inputs, (0, 0, 0, longest - len(inputs))) for inputs, _ in examples]
    return torch.stack(rows), torch.tensor([target for _, target in examples])


def hugging():
    return datasets.Dataset.from_dict({"x": INPUTS.tolist(), "label": LABELS.tolist()})


FORMS = {
    "tensors": lambda: (INPUTS, LABELS),
    "arrays": lambda: (INPUTS.double().numpy(), LABELS.numpy()),
    "a TensorDataset": lambda: TensorDataset(INPUTS, LABELS),
    "a Dataset": lambda: Listed(PAIRS),
    "an array that is reversed": lambda: (INPUTS.numpy()[::-1].copy()[::-1], LABELS.numpy()),
    "arrays of another machine": lambda: (INPUTS.numpy().astype(">f4"), LABELS.numpy().astype(">i2")),
    "a list of examples": lambda: PAIRS,
    "a list of examples with tensors as targets": lambda: list(zip(INPUTS, LABELS, strict=True)),
    "any sequence": lambda: [TensorDataset(INPUTS[:5], LABELS[:5]), Listed(PAIRS[5:])],
    "several of them": lambda: ConcatDataset([TensorDataset(INPUTS[:5], LABELS[:5]), Listed(PAIRS[5:])]),
    "a data set of Hugging Face": hugging,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_in_any_form_are_the_same_tensors(form):
    data = as_data(FORMS[form](), "train")
    assert isinstance(data, Examples)
    torch.testing.assert_close(data.inputs, INPUTS)
    assert data.inputs.dtype == torch.float32
    assert torch.equal(data.targets, LABELS)


def test_inputs_may_be_several_tensors():
    data = as_data(({"a": INPUTS, "b": (INPUTS, LABELS)}, LABELS), "train")
    inputs, _ = data.at(torch.tensor([[3, 1]]))
    assert inputs["b"][1].tolist() == [[0, 1]]


TARGETS = (np.uint8, np.int16, np.int32, torch.uint8, torch.int32)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("form", [Listed, Drawn])
def test_types_become_those_that_losses_take_in_memory_and_streamed(form, kind):
    labels = LABELS.to(kind) if isinstance(kind, torch.dtype) else LABELS.numpy().astype(kind)
    data = as_data(form(list(zip(INPUTS.double().numpy(), labels, strict=True))), "train")
    inputs, targets = next(data.batches(0, 12))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert torch.equal(targets, LABELS)
    truths = as_data((INPUTS, LABELS > 0), "train").targets
    assert truths.dtype == torch.int64


class TestHuggingFace:
    def halved(self, batch):
        return {"pixels": [torch.tensor(x) / 2 for x in batch["x"]], "label": batch["label"]}

    def test_a_transform_stays(self):
        data = as_data(hugging().with_transform(self.halved), "train")
        torch.testing.assert_close(data.inputs, INPUTS / 2)

    def test_a_transform_that_draws_leaves_labels_known_and_generators_alone(self):
        def noisy(batch):
            return {"x": [torch.tensor(x) + torch.rand(()) for x in batch["x"]], "label": batch["label"]}

        before = torch.get_rng_state()
        data = as_data(hugging().with_transform(noisy), "train")
        assert isinstance(data, Streamed)
        assert torch.equal(data.labels, LABELS)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_transform_that_fails_is_named(self):
        with pytest.raises(DataError, match=r"^train data: example 0 raised KeyError: 'y'$"):
            as_data(hugging().with_transform(lambda batch: batch["y"]), "train")


MIXED = {
    "pairs of dicts": [({"a": INPUTS[:3]}, LABELS[:3]), ({"a": INPUTS[3:]}, LABELS[3:])],
    "pairs of tuples": [((INPUTS[:3],), LABELS[:3]), ((INPUTS[3:],), LABELS[3:])],
    "a pair and a Dataset": [((INPUTS[:3],), LABELS[:3]), Listed([((x,), y) for x, y in PAIRS[3:]])],
    "lists of examples": [[], PAIRS[:3], PAIRS[3:]],
}


class TestListOfClients:
    @pytest.mark.parametrize("case", MIXED)
    def test_takes_each_client_in_the_forms_that_data_have_alone(self, case):
        data = as_data(MIXED[case], "train")
        inputs = data.inputs if isinstance(data.inputs, torch.Tensor) else next(iter(tensors_of(data.inputs)))
        assert torch.equal(inputs, INPUTS)
        assert torch.equal(data.targets, LABELS)

    def test_is_streamed_with_a_collate_function(self):
        data = as_data([(INPUTS[:3], LABELS[:3]), (INPUTS[3:], LABELS[3:])], "train", default_collate)
        assert torch.equal(data.labels, LABELS)
        inputs, _ = next(data.batches(0, 12))
        assert torch.equal(inputs, INPUTS)

    def test_may_end_with_a_client_without_examples(self):
        parts = [(INPUTS[:6], LABELS[:6]), (INPUTS[6:], LABELS[6:]), (INPUTS[:0], LABELS[:0])]
        options = {"clients": 3, "rounds": 2, "batch_size": 2, "partition": "by-column", "empty_clients": "skip"}
        result = lf.train(linear(), parts, (INPUTS, LABELS), **options)
        assert len(result.ledger) == 2

    def test_names_the_client_of_each_example(self):
        data = as_data([(INPUTS[:3], LABELS[:3]), (INPUTS[:0], LABELS[:0]), Listed(PAIRS[3:])], "train")
        assert data.groups.tolist() == [0] * 3 + [2] * 9
        assert torch.equal(data.targets, LABELS)

    def test_each_client_trains_on_its_own(self):
        parts = [(torch.full((4, 2), float(client)), torch.full((4,), client)) for client in range(3)]
        task = lf.Task(parts, parts[0], {"linear": lambda: torch.nn.Linear(2, 3)})
        config = lf.OverTheAir({"w": torch.zeros(1)}, clients=3).config.model_copy(update={"partition": "by-column"})
        sampler = task.train.sampler(config, range(3))
        rows = sampler.batch(0)
        assert [set(task.train.targets[row].tolist()) for row in rows] == [{0}, {1}, {2}]

    def test_comes_with_its_number_of_clients(self):
        parts = [(INPUTS[:3], LABELS[:3]), (INPUTS[3:], LABELS[3:])]
        result = lf.train(linear(), parts, (INPUTS, LABELS), rounds=1)
        assert (result.config.clients, result.config.partition) == (2, "by-column")
        assert lf.train(linear(), parts, (INPUTS, LABELS), rounds=1, partition="iid").config.partition == "iid"


class TestStreamed:
    def test_is_taken_with_a_collate_function(self):
        assert isinstance(as_data(Listed(RAGGED), "train", padded), Streamed)

    def test_is_taken_where_examples_are_drawn_anew(self):
        assert isinstance(as_data(Drawn(PAIRS), "train"), Streamed)

    @pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(())])
    def test_is_taken_where_few_examples_are_drawn_anew(self, draw):
        assert isinstance(as_data(Rare(PAIRS, draw), "train"), Streamed)

    def test_is_taken_where_memory_is_short(self, monkeypatch):
        monkeypatch.setattr(adapters, "STACKED_BYTES", 100)
        assert isinstance(as_data(Listed(PAIRS), "train"), Streamed)

    def test_knows_the_labels_that_a_data_set_has_beside_its_examples(self):
        data = Drawn(PAIRS)
        data.targets = LABELS.tolist()
        assert torch.equal(as_data(data, "train").labels, LABELS)

    def test_knows_the_labels_of_parts_and_of_several_data_sets(self):
        data = Drawn(PAIRS)
        data.targets = LABELS.tolist()
        chosen = ConcatDataset([Subset(Subset(data, [9, 4, 2]), [2, 0]), data])
        assert torch.equal(as_data(chosen, "train").labels, torch.cat([LABELS[[2, 9]], LABELS]))
        assert as_data(ConcatDataset([data, Drawn(PAIRS)]), "train").labels is None

    @pytest.mark.parametrize("keys", [{}, {"fraction": 0.5, "local_steps": 2, "accumulation_steps": 2}])
    def test_a_run_is_the_same_whoever_reads(self, keys):
        """Workers read ahead, over the ends of rounds and epochs; the draws belong to the batch."""
        torch.manual_seed(0)
        model, data = torch.nn.Linear(4, 3), Drawn(PAIRS)
        options = {"clients": 3, "rounds": 5, "batch_size": 2, **keys}
        here, ahead = (lf.train(model, data, (INPUTS, LABELS), data_workers=w, **options) for w in (0, 2))
        assert here.history.equals(ahead.history)
        assert here.ledger.equals(ahead.ledger)

    def test_leaves_the_global_generators_alone(self):
        torch.manual_seed(0)
        np.random.seed(0)
        before = torch.rand(1), np.random.rand()
        torch.manual_seed(0)
        np.random.seed(0)
        next(as_data(Drawn(PAIRS), "train").batches(2, 2))
        assert (torch.rand(1), np.random.rand()) == before


def test_an_example_that_cannot_be_read_on_the_way_leaves_what_there_was(tmp_path):
    examples = [*PAIRS[:7], OSError("disk on fire"), *PAIRS[8:]]
    options = {"collate": torch.utils.data.default_collate, "clients": 2, "batch_size": 1, "rounds": 12}
    with pytest.raises(DataError, match="train data: example 7 raised OSError: disk on fire"):
        lf.train(linear(), Listed(examples), (INPUTS, LABELS), out=tmp_path, **options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", "train data: example 7 raised OSError: disk on fire")
    assert len((tmp_path / "ledger.csv").read_text().splitlines()) == 1 + summary["rounds"] > 1


def test_data_that_no_worker_can_be_sent_are_named_in_a_line(monkeypatch):
    loader = Streamed.loader

    def start(self, requests, workers):
        if workers:
            raise TypeError("cannot pickle 'generator' object")
        return loader(self, requests, workers)

    monkeypatch.setattr(Streamed, "loader", start)
    with pytest.raises(DataError, match=r"cannot be read by data-workers \(TypeError: cannot pickle 'generator'"):
        lf.train(linear(), Drawn(PAIRS), (INPUTS, LABELS), clients=2, rounds=1, batch_size=2, data_workers=1)


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


def vector_loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def failing(outputs, targets):
    raise ZeroDivisionError("no positives")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


NAN = torch.where(torch.arange(48).view(12, 4) == 21, torch.nan, INPUTS)
FRAME = pd.DataFrame({"a": [0.5, 1.0]})
WRONG = {
    "a label out of range": (
        {"train": (INPUTS, LABELS + 1)},
        "train data: must have targets from 0 to 2 for a model of 3",
    ),
    "a test label out of range": ({"test": (INPUTS, LABELS - 1)}, "test data: must have targets from 0 to 2 .*got -1"),
    "NaN among inputs": ({"train": (NAN, LABELS)}, "train data: its inputs must be finite, got nan in example 5"),
    "a shape that changes": (
        {"train": Listed(RAGGED)},
        r"train data: must have examples of one shape, or a collate .* example 0 and .*\(3, 4\).* as example 1",
    ),
    "a collate function that cannot": (
        {"train": Listed(RAGGED), "collate": lambda examples: failing(1, 1)},
        "train data: examples 0, ... do not make a batch .*ZeroDivisionError: no positives",
    ),
    "a label that is a text": (
        {"train": Listed([(x, "cat") for x, _ in PAIRS])},
        "train data: example 0 must have a target of numbers, got 'cat'",
    ),
    "no target": ({"train": Listed([x for x, _ in PAIRS])}, "train data: example 0 must be a pair .inputs, target."),
    "fewer targets": ({"train": (INPUTS, LABELS[:9])}, "train data: must have a target for each input, got 12 and 9"),
    "an example that raises": (
        {"train": Listed([*PAIRS[:7], OSError("disk on fire"), *PAIRS[8:]])},
        "train data: example 7 raised OSError: disk on fire",
    ),
    "no examples": ({"train": (INPUTS[:0], LABELS[:0])}, "train data: must have examples, got none"),
    "a stream": ({"train": Stream()}, "train data: must be a pair of tensors .* map-style Dataset.* got .*Stream"),
    "a stream of Hugging Face": (
        {"train": hugging().to_iterable_dataset()},
        "train data: must be .* a map-style Dataset, .* got a value of type IterableDataset",
    ),
    "several splits": (
        {"train": datasets.DatasetDict(train=hugging())},
        r"train data: must be .* \(of several splits, pass one: data\['train'\]\), got a value of type DatasetDict",
    ),
    "a table": ({"train": FRAME}, r"^train data: .* \(of tables, pass their .to_numpy\(\)\), got .* DataFrame"),
    "a pair of tables": ({"train": (FRAME, FRAME["a"])}, r"^train data: .* \(of tables, .* got a tuple of 2"),
    "a pair of lists": ({"train": ([0.5, 1.0], [0, 1])}, r"^train data: .* \(of lists, .* got a tuple of 2"),
    "an array of objects": (
        {"train": (np.array([None] * 12), LABELS)},
        "train data: must have inputs of numbers, got an array of object",
    ),
    "targets that are objects": (
        {"train": (INPUTS, np.array(["a"] * 12, dtype=object))},
        "train data: must have targets of numbers, got an array of object",
    ),
    "an example of objects": (
        {"train": Listed([(np.array([None]), 1)] * 3)},
        "train data: example 0 must have inputs of numbers, got an array of object",
    ),
    "clients of several shapes": (
        {"train": [(INPUTS[:0], LABELS[:0]), (INPUTS, LABELS), (INPUTS[:, :3], LABELS)]},
        r"train data: .* of one shape, got \(\(4,\), \(\)\) of client 1 and \(\(3,\), \(\)\) of client 2",
    ),
    "a client with fewer targets": (
        {"train": [(INPUTS, LABELS), (INPUTS, LABELS[:9])]},
        "client 1's train data: must have a target for each input, got 12 and 9",
    ),
    "a client without targets": (
        {"train": [TensorDataset(INPUTS, LABELS), TensorDataset(INPUTS)]},
        "train data: example 12 must be a pair .inputs, target., got a tuple of 1",
    ),
    "a client that is a stream": (
        {"train": [(INPUTS, LABELS), Stream()]},
        "client 1's train data: must be a pair of tensors .* got a value of type Stream",
    ),
    "outputs of a wrong shape": (
        {"model": torch.nn.Linear(4, 1), "loss": torch.nn.functional.mse_loss, "train": (INPUTS, INPUTS[:, 0])},
        r"loss: does not fit the model's outputs \(2, 1\) and the targets \(2,\)",
    ),
    "a model of other inputs": (
        {"model": torch.nn.Linear(5, 3)},
        "model: cannot be trained on these data: RuntimeError",
    ),
    "a loss that is a vector": ({"loss": vector_loss}, r"loss: must be a scalar, .* got Tensor \(2,\)"),
    "a metric that raises": ({"metrics": failing}, "metric failing: raised ZeroDivisionError: no positives"),
    "a metric that is a vector": (
        {"metrics": {"each": vector_loss}},
        "metric each: raised ValueError: only one element",
    ),
    "a loss without weights": ({"loss": lambda o, t: torch.zeros(())}, "loss: must depend on the model's weights"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_is_named_in_one_line_before_anything_starts(case, tmp_path):
    given, line = WRONG[case]
    data = {"model": linear(), "train": (INPUTS, LABELS), "test": (INPUTS, LABELS)} | given
    model, train, test = (data.pop(name) for name in ("model", "train", "test"))
    with pytest.raises(DataError, match=line) as refused:
        lf.train(model, train, test, clients=2, rounds=2, batch_size=2, out=tmp_path / "run", **data)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
