"""Data sets of Hugging Face (task=huggingface): a folder or a file here, or a name on the hub."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.adapters import as_data
from laser_fl.data.columns import named_columns
from laser_fl.data.splits import TEST_SHARE, TRAIN, name_of_test
from laser_fl.data.supervised import ClientColumn, Target, supervised
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError, brief, packages_for, quoted, reason_of
from laser_fl.models.small import cnn, linear, mlp
from laser_fl.registry import Option

BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
TOKENS = 128  # of a text, cut or padded
LIBRARY = "transformers:"


def load_huggingface(
    data_dir: Path,
    config: RunConfig,
    dataset: Annotated[str, Option("folder or file here, or name on the hub")] = "",
    input_column: Annotated[str, Option("column that the model reads; empty: the only one beside the others")] = "",
    target: Target = "",
    client_column: ClientColumn = "",
) -> Task:
    """Read a data set with an input and a target column; where it has no test, a fifth of it is the test.

    Images become tensors of 8 bits, scaled to [-1, 1] for the model; texts become tokens of the model's own tokenizer,
    where it is of transformers and has one, else bytes; numbers and lists of them stay.

    Args:
        data_dir: not read.
        config: of the run.
        dataset: a folder that ``save_to_disk`` wrote, a folder or a file that ``load_dataset`` takes, or a name.
        input_column: the column that a model reads; "": the only one beside the others.
        target: the column to predict; "": the one with a usual name.
        client_column: the column that names each example's client.

    Raises:
        ConfigError: dataset is not set, or the package datasets is not installed.
        DataError: there is no such data set or column.
    """
    if not dataset:
        raise ConfigError("dataset: must name a folder, a file or a data set of the hub for task huggingface, got ''")
    with packages_for("task=huggingface", "laser-fl[hub]"):
        import datasets  # noqa: F401
    parts = _parts(dataset)
    columns = [column for column in parts[TRAIN].column_names if column != client_column]
    input_column, target = named_columns(columns, "train", input_column, target)
    labels, classes = _targets({name: part[target] for name, part in parts.items()})
    is_text = getattr(parts[TRAIN].features[input_column], "dtype", "") in ("string", "large_string")
    read = _tokens(config.model) if is_text else _rows
    train, test = (as_data(read(part, input_column, labels[name]), name) for name, part in parts.items())
    is_image = type(parts[TRAIN].features[input_column]).__name__ == "Image"
    return supervised(
        replace(train, groups=_groups(parts[TRAIN], client_column)),  # type: ignore[arg-type]
        test,
        labels[TRAIN].is_floating_point(),
        {"cnn": cnn, "mlp": mlp, "linear": linear},
        fixed={"classes": classes, **({} if is_text else _facts(train, is_image))},
        prepare=_centered if is_image else None,
    )


def _parts(dataset: str) -> Mapping[str, Any]:
    """Return the data sets to train and to test on. Raises DataError where they cannot be had."""
    import datasets

    place = Path(dataset).expanduser()
    try:
        if place.is_dir() and any((place / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
            found = datasets.load_from_disk(str(place))
        elif place.is_file() and place.suffix in BUILDERS:
            found = datasets.load_dataset(BUILDERS[place.suffix], data_files=str(place))
        else:
            found = datasets.load_dataset(str(place) if place.exists() else dataset)
    except Exception as error:  # any error of a file, the network, the hub or its cache
        rule = "must be a folder or a file of a data set, or a name on the hub that can be reached"
        raise DataError(f"dataset: {quoted(dataset)} {rule} ({brief(reason_of(error))})") from None
    parts = dict(found) if isinstance(found, Mapping) else {TRAIN: found}
    if test := name_of_test(parts):
        return {TRAIN: parts[TRAIN], "test": parts[test]}
    whole = parts[TRAIN] if TRAIN in parts else next(iter(parts.values()))
    if len(whole) < 2:
        raise DataError(f"dataset: {quoted(dataset)} must have examples, got {len(whole)}")
    return dict(whole.train_test_split(TEST_SHARE, seed=0))


def _targets(columns: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Tensor], int]:
    """Return the targets and the number of outputs: classes from 0, in order of their values; or numbers, and 1."""
    values = {name: list(column) for name, column in columns.items()}
    if any(value is None or isinstance(value, list | dict) for column in values.values() for value in column):
        raise DataError(
            "dataset: must have a number or a text as the target of each example, got none or another value"
        )
    if any(isinstance(value, float) for value in values[TRAIN]):
        return {name: torch.tensor(column, dtype=torch.float32) for name, column in values.items()}, 1
    classes = {value: place for place, value in enumerate(sorted({v for column in values.values() for v in column}))}
    return {name: torch.tensor([classes[v] for v in column]) for name, column in values.items()}, len(classes)


class _Rows:
    """A column of inputs beside known targets."""

    def __init__(self, dataset: Any, column: str, targets: Tensor) -> None:
        self._dataset, self._column, self.targets = dataset.with_format("torch", [column]), column, targets

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Any, Tensor]:
        return self._dataset[row][self._column], self.targets[row]


def _rows(dataset: Any, column: str, targets: Tensor) -> Any:
    return _Rows(dataset, column, targets)


def _tokens(model: str) -> Callable[[Any, str, Tensor], Any]:
    """Return the function that makes tokens of a column of texts, as the model has them."""
    encode = _bytes
    if model.startswith(LIBRARY):
        from transformers import AutoTokenizer

        with suppress(OSError, ValueError, KeyError):  # a folder without a tokenizer
            encode = partial(_of_tokenizer, AutoTokenizer.from_pretrained(model.removeprefix(LIBRARY)))
    return lambda dataset, column, targets: (encode(_filled(dataset, column)), targets)


def _filled(dataset: Any, column: str) -> list[Any]:
    """Return the values of a column. Raises DataError where one is missing."""
    values = list(dataset[column])
    if None in values:
        raise DataError(f"dataset: must have no gaps, got None in row {values.index(None)} of column {quoted(column)}")
    return values


def _of_tokenizer(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    found = tokenizer(texts, truncation=True, padding="max_length", max_length=TOKENS, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def _bytes(texts: list[str]) -> dict[str, Tensor]:
    tokens = torch.zeros(len(texts), TOKENS, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, text in enumerate(texts):
        some = torch.tensor(list(text.encode()[:TOKENS]), dtype=torch.int64)
        tokens[row, : len(some)], mask[row, : len(some)] = some, 1
    return {"input_ids": tokens, "attention_mask": mask}


def _groups(dataset: Any, column: str) -> Tensor | None:
    """Return the number of each example's client. Raises DataError where there is no such column."""
    if not column:
        return None
    if column not in dataset.column_names:
        columns = brief(", ".join(dataset.column_names))
        raise DataError(f"train data: must have the column {quoted(column)} (client-column), got {columns}")
    values = _filled(dataset, column)
    numbers = {value: place for place, value in enumerate(sorted(set(values)))}
    return torch.tensor([numbers[value] for value in values])


def _facts(train: Any, is_image: bool) -> dict[str, int]:
    """Return the facts of the inputs that builders take."""
    inputs, _ = next(iter(train.batches(1, 1)))
    facts = {"features": inputs[0].numel()}
    return facts | {"channels": inputs.shape[1]} if is_image else facts


def _centered(images: Tensor) -> Tensor:
    return images / 127.5 - 1
