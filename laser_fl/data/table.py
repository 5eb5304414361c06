"""Tables of one's own (task=table): CSV or Parquet, a row per example."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.examples import Examples
from laser_fl.data.splits import TRAIN, divided, name_of_test
from laser_fl.data.supervised import ClientColumn, Target, supervised
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError, DataError, brief, packages_for, quoted, reason_of
from laser_fl.models.small import linear, mlp

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".parquet")
MOST_TEXTS = 1000  # different texts of a column that becomes a column for each


def load_table(data_dir: Path, config: RunConfig, target: Target = "", client_column: ClientColumn = "") -> Task:
    """Read the file `data_dir`, or train.* and test.* in that folder; of one file a fifth is the test.

    All columns beside the target are inputs: numbers are scaled to zero mean and unit deviation, a text becomes a
    column for each of its values.

    Args:
        data_dir: a file that ends with .csv, .csv.gz or .parquet, or a folder.
        config: of the run.
        target: the column to predict.
        client_column: the column that names each example's client; it is no input.

    Raises:
        ConfigError: data-dir or target is not set.
        DataError: there is no such file or column, or it has gaps.
    """
    if not config.data_dir or not target:
        lacks = "target" if config.data_dir else "data-dir"
        what = "the column to predict" if config.data_dir else "a CSV or Parquet file, or a folder with train and test"
        raise ConfigError(f"{lacks}: must name {what} for task table, got ''")
    with packages_for("task=table"):
        import pandas as pd
    train, test = _tables(data_dir)
    _refuse_no_column(train, target, "target", data_dir)
    if client_column:
        _refuse_no_column(train, client_column, "client-column", data_dir)
    whole = train
    if test is not None:
        _refuse_no_column(test, target, "target", data_dir)
        whole = pd.concat([train, test.drop(columns=client_column, errors="ignore")], ignore_index=True)
    beside = [column for column in (target, client_column) if column]
    for part in (whole.drop(columns=client_column or []), train):
        _refuse_gaps(part, data_dir)
    targets, classes = _targets(whole[target])
    rows, tested = divided(targets) if test is None else torch.arange(len(whole)).tensor_split([len(train)])
    inputs = _features(whole.drop(columns=beside), rows, data_dir)
    groups = torch.from_numpy(pd.factorize(train[client_column], sort=True)[0])[rows] if client_column else None
    return supervised(
        Examples(inputs[rows], targets[rows], groups),
        Examples(inputs[tested], targets[tested]),
        targets.is_floating_point(),
        {"mlp": mlp, "linear": linear},
        fixed={"features": inputs.shape[1], "classes": classes},
    )


def _tables(place: Path) -> tuple["pd.DataFrame", "pd.DataFrame | None"]:
    """Read the table, or the one to train and the one to test on. Raises DataError."""
    if not place.is_dir():
        return _table(place), None
    files = {path.name.split(".")[0]: path for path in sorted(place.iterdir()) if path.name.endswith(SUFFIXES)}
    if test := name_of_test(files):
        return _table(files[TRAIN]), _table(files[test])
    if len(files) != 1:
        rule = f"must have one table ({', '.join(SUFFIXES)}), or train and test"
        raise DataError(f"{place}: {rule}, got {brief(', '.join(path.name for path in files.values())) or 'none'}")
    return _table(next(iter(files.values()))), None


def _table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        if path.name.endswith(".parquet"):
            with packages_for("a Parquet table", "laser-fl[sweeps]"):
                import pyarrow  # noqa: F401
            table = pd.read_parquet(path)
        elif path.name.endswith(SUFFIXES):
            table = pd.read_csv(path)
        else:
            raise DataError(f"{path}: must be a table that ends with {', '.join(SUFFIXES)}")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path}: must be a readable table ({brief(reason_of(error))})") from None
    if len(table) < 2:
        raise DataError(f"{path}: must have rows, got {len(table)}")
    return table


def _refuse_no_column(table: "pd.DataFrame", column: str, key: str, place: Path) -> None:
    if column not in table:
        there = brief(", ".join(map(str, table.columns)))
        raise DataError(f"{place}: must have the column {quoted(column)} ({key}), got {there}")


def _refuse_gaps(table: "pd.DataFrame", place: Path) -> None:
    for name, column in table.items():
        gaps = column.isna() if column.dtype.kind != "f" else ~np.isfinite(column)
        if gaps.any():
            row = int(np.flatnonzero(gaps)[0])
            raise DataError(f"{place}: must have no gaps, got {column.iloc[row]} in row {row} of column {quoted(name)}")


def _targets(column: "pd.Series[Any]") -> tuple[Tensor, int]:
    """Return the targets and the number of outputs: classes from 0, in order of their values; or numbers, and 1."""
    import pandas as pd

    if column.dtype.kind == "f":
        return torch.from_numpy(column.to_numpy(np.float32, copy=True)), 1
    codes, values = pd.factorize(column, sort=True)
    return torch.from_numpy(codes.astype(np.int64)), len(values)


def _features(table: "pd.DataFrame", train: Tensor, place: Path) -> Tensor:
    """Return the inputs as numbers, scaled by the rows to train on. Raises DataError where a column is no input."""
    import pandas as pd

    texts = [name for name, column in table.items() if column.dtype.kind not in "fiub"]
    for name in texts:
        if (count := table[name].nunique()) > MOST_TEXTS:
            rule = f"must have at most {MOST_TEXTS} different values to be an input, got {count:,}"
            raise DataError(f"{place}: column {quoted(name)} {rule}")
    numbers = pd.get_dummies(table, columns=texts).to_numpy(np.float64)
    if numbers.shape[1] == 0:
        raise DataError(f"{place}: must have a column beside the target, got none")
    mean, std = numbers[train.numpy()].mean(axis=0), numbers[train.numpy()].std(axis=0)
    return torch.from_numpy(((numbers - mean) / np.where(std > 0, std, 1.0)).astype(np.float32))
