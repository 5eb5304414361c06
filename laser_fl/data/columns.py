"""Columns of data sets of Hugging Face, as pairs (inputs, target)."""

from collections.abc import Sequence
from typing import Any

from laser_fl.data.streamed import Request, Streamed
from laser_fl.errors import DataError, brief, quoted

TARGET_COLUMNS = ("label", "labels", "target", "targets", "fine_label")


def of_columns(dataset: Any, name: str, inputs: str = "", target: str = "") -> Any:
    """Return a Hugging Face data set as a Dataset of (inputs, target).

    A transform of its own (``with_transform``) stays; else the columns are read as tensors.

    Args:
        dataset: of the package datasets.
        name: of the data, for messages.
        inputs: as for `named_columns`.
        target: likewise.

    Raises:
        DataError: as `named_columns` does; or the transform raises for example 0.
    """
    if dataset.format["type"] != "custom":
        columns = named_columns(dataset.column_names, name, inputs, target)
        return _Columns(dataset.with_format("torch"), *columns)
    return _Columns(dataset, *named_columns(_transformed(dataset, name), name, inputs, target))


def named_columns(columns: Sequence[str], name: str, inputs: str = "", target: str = "") -> tuple[str, str]:
    """Return the columns for inputs and target.

    Args:
        columns: all that there are.
        name: of the data, for messages.
        inputs: the column that a model reads; "": the only one beside the target.
        target: the column to be predicted; "": the one with a usual name.

    Raises:
        DataError: there is no such column, or several could be meant.
    """
    target = target or next((column for column in TARGET_COLUMNS if column in columns), "")
    others = [column for column in columns if column != target]
    inputs = inputs or (others[0] if len(others) == 1 else "")
    for role, column in (("target", target), ("inputs", inputs)):
        if column not in columns:
            got = f"no {quoted(column)}" if column else "none that is named"
            there = brief(", ".join(columns))
            raise DataError(f"{name} data: must have a column for the {role}, got {got} among {there}")
    return inputs, target


class _Columns:
    """A Hugging Face data set as (inputs, target) by index."""

    def __init__(self, dataset: Any, inputs: str, target: str) -> None:
        self._dataset, self._inputs, self._target = dataset, inputs, target

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        example = self._dataset[row]
        return example[self._inputs], example[self._target]

    @property
    def targets(self) -> list[int] | None:
        """The column of the target where it is one of integers, which takes no reading of the inputs."""
        feature = self._dataset.features.get(self._target)
        if "int" not in str(getattr(feature, "dtype", "")):
            return None
        return list(self._dataset.with_format(None)[self._target])


def _transformed(dataset: Any, name: str) -> list[str]:
    """Return the columns that a transform leaves. Raises DataError where it cannot be computed."""
    if len(dataset) == 0:
        return list(dataset.column_names)
    streamed = Streamed(dataset, collate=lambda examples: (examples[0], None), name=name)
    example, _ = streamed.taken(streamed.read(Request((0,))))
    return list(example)
