"""What the commands share: options, settings, tables, and errors of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError, DataError, LaserError, brief, quoted, reason_of
from simulations import presets
from simulations.texts import shown

if TYPE_CHECKING:
    import pandas as pd

REFUSED, FAILED = 2, 1

console = Console()
errors = Console(stderr=True)

Preset = Annotated[str | None, typer.Option("--preset", help="Start from a preset; see `laser-fl list`.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Set a config key; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]


def settings_of(preset: str | None, overrides: list[str] | None, out: Path | None) -> RunConfig:
    """The run config: defaults, then the preset, then -c, then --out."""
    given = key_values(overrides)
    values: dict[str, Any] = {**(presets.beside(presets.load(preset), given) if preset else {}), **given}
    if out is not None:
        values["out-dir"] = str(out)
    return parse(values)


def key_values(given: list[str] | None, option: str = "-c") -> dict[str, str]:
    """The keys and values of an option that may be repeated."""
    values = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not equals:
            raise ConfigError(f"{option}: must be KEY=VALUE, got {quoted(one)}")
        values[key.strip()] = value.strip()
    return values


def refuse_keys(overrides: list[str] | None, *keys: str) -> None:
    """Refuse config keys for which a command has an option of its own."""
    for override in overrides or []:
        if (key := override.partition("=")[0].strip()) in keys:
            option = "--strategies" if keys == ("strategy",) else f"--{key}"
            raise ConfigError(f"{key}: must be given by {option} here, got -c {brief(override)}")


def frame_table(frame: "pd.DataFrame", title: str) -> Table:
    """A frame as it is shown."""
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    for column in frame.columns:
        table.add_column(str(column), overflow="fold", justify="right" if frame[column].dtype.kind in "fi" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(shown(value) for value in row))
    return table


def two_columns(left: str, rows: list[tuple[str, str]], right: str = "") -> Table:
    """A heading and lines of name and value."""
    table = Table(left, right, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors that a user can mend are one line each and an exit status, never a traceback."""
    try:
        yield
    except LaserError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        refused = isinstance(error, (ConfigError, DataError))
        raise typer.Exit(REFUSED if refused else FAILED) from None
    except OSError as error:  # of a disk: full, read-only, gone, somebody else's
        if error.filename is None:
            raise
        line = f"{error.filename}: {reason_of(error)}"
        errors.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None
