"""Data in the forms in which people have them; and what cannot be trained on is refused in one line."""

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, TensorDataset

import laser_fl as lf
from laser_fl.data import adapters
from laser_fl.data.adapters import as_data
from laser_fl.data.examples import Examples
from laser_fl.data.streamed import Streamed
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
        return inputs + torch.rand(()) + np.random.rand(), target


PAIRS = [(x, int(y)) for x, y in zip(INPUTS, LABELS, strict=True)]
RAGGED = [(torch.ones(2 + row % 3, 4), row % 3) for row in range(12)]


def padded(examples):
    longest = max(len(inputs) for inputs, _ in examples)
    rows = [torch.nn.functional.pad(inputs, (0, 0, 0, longest - len(inputs))) for inputs, _ in examples]
    return torch.stack(rows), torch.tensor([target for _, target in examples])


def hugging():
    import datasets

    return datasets.Dataset.from_dict({"x": INPUTS.tolist(), "label": LABELS.tolist()})


FORMS = {
    "tensors": lambda: (INPUTS, LABELS),
    "arrays": lambda: (INPUTS.double().numpy(), LABELS.numpy()),
    "a TensorDataset": lambda: TensorDataset(INPUTS, LABELS),
    "a Dataset": lambda: Listed(PAIRS),
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


class TestListOfClients:
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


class TestStreamed:
    def test_is_taken_with_a_collate_function(self):
        assert isinstance(as_data(Listed(RAGGED), "train", padded), Streamed)

    def test_is_taken_where_examples_are_drawn_anew(self):
        assert isinstance(as_data(Drawn(PAIRS), "train"), Streamed)

    def test_is_taken_where_memory_is_short(self, monkeypatch):
        monkeypatch.setattr(adapters, "STACKED_BYTES", 100)
        assert isinstance(as_data(Listed(PAIRS), "train"), Streamed)

    def test_knows_the_labels_that_a_data_set_has_beside_its_examples(self):
        data = Drawn(PAIRS)
        data.targets = LABELS.tolist()
        assert torch.equal(as_data(data, "train").labels, LABELS)

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
