"""Shared parts of the commands: options, settings, printing, and errors of one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError, DataError, LaserError, brief, quoted, reason_of
from simulations import presets
from simulations.texts import Listing, pairs, shown

if TYPE_CHECKING:
    import pandas as pd

REFUSED, FAILED = 2, 1
ENDLESS = 1_000_000  # columns

console = Console()  # for results alone
errors = Console(stderr=True)  # for progress, too

Preset = Annotated[str | None, typer.Option("--preset", help="Start from a preset; see `laser-fl list`.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Set a config key; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]


def settings_of(preset: str | None, overrides: list[str] | None, out: Path | None) -> RunConfig:
    """Return the run config: defaults, then the preset, then -c, then --out.

    Args:
        preset: its name; None: no preset.
        overrides: of -c, each KEY=VALUE.
        out: the run's folder; None: as the config has it.

    Raises:
        ConfigError: an unknown preset, or a wrong key or value.
    """
    return parse(values_of(preset, overrides, out))


def values_of(preset: str | None, overrides: list[str] | None, out: Path | None) -> dict[str, Any]:
    """Return the keys and values of `settings_of`, as they were given. Raises ConfigError as it does."""
    given = key_values(overrides)
    values: dict[str, Any] = {**(presets.beside(presets.load(preset), given) if preset else {}), **given}
    if out is not None:
        values["out-dir"] = str(out)
    return values


def key_values(given: list[str] | None, option: str = "-c") -> dict[str, str]:
    """Return the keys and values of an option that may be repeated. Raises ConfigError for an item without '='."""
    values = {}
    for one in given or []:
        key, equals, value = one.partition("=")
        if not equals:
            raise ConfigError(f"{option}: must be KEY=VALUE, got {quoted(one)}")
        values[key.strip()] = value.strip()
    return values


def refuse_keys(overrides: list[str] | None, *keys: str) -> None:
    """Raise ConfigError for config keys for which a command has an option of its own."""
    for override in overrides or []:
        if (key := override.partition("=")[0].strip()) in keys:
            option = "--strategies" if keys == ("strategy",) else f"--{key}"
            raise ConfigError(f"{key}: must be given by {option} here, got -c {brief(override)}")


def print_line(line: object, style: str = "", on: Console = console) -> None:
    """Print one line as it is, neither cut nor broken into several.

    Args:
        line: printed as text.
        style: of rich.
        on: the console.
    """
    on.print(Text(str(line), style), soft_wrap=True)


def show(listing: Listing) -> None:
    """Print a table; nothing of it is cut."""
    print_line(listing.title, "bold")
    for line in listing.lines(_room()):
        print_line(line)
    if listing.caption:
        print_line(listing.caption, "dim")


def show_frame(frame: "pd.DataFrame", title: str) -> None:
    """Print a frame, numbers to four digits."""
    rows = [[shown(value) for value in row] for row in frame.itertuples(index=False)]
    numbers = [str(column) for column in frame.columns if frame[column].dtype.kind in "fi"]
    show(Listing(title, [str(column) for column in frame.columns], rows, numbers))


def show_pairs(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a heading and lines of name and value."""
    print_line(title, "bold")
    for line in pairs(rows, _room()):
        print_line(line)


def _room() -> int:
    """Return the largest width of a line.

    It is COLUMNS where that is set, else the terminal's width; in a pipe or a file, a line may be as long as it takes.
    """
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return int(columns)
    return console.width if console.is_terminal else ENDLESS


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn errors that a user can mend into one line each and an exit status, never a traceback."""
    try:
        yield
    except LaserError as error:
        print_line(error, "red", errors)
        refused = isinstance(error, (ConfigError, DataError))
        raise typer.Exit(REFUSED if refused else FAILED) from None
    except OSError as error:  # the disk is full, read-only, gone, or somebody else's
        if error.filename is None:
            raise
        print_line(f"{error.filename}: {reason_of(error)}", "red", errors)
        raise typer.Exit(FAILED) from None
