"""The end of a run, as commands print it: a few lines for people, or one JSON object for programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from simulations.cli.common import print_line, show_pairs

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, alone on standard output.")]


def show_result(folder: Path, summary: Mapping[str, Any], as_json: bool = False) -> None:
    """Print the result of a run that has ended.

    Args:
        folder: of the run.
        summary: as in its ``summary.json``.
        as_json: print it with the folder as one JSON object.

    Raises:
        DataError: the run's ledger is damaged.
    """
    from simulations.run_result import next_steps, result_rows, title

    if as_json:
        print_json({"folder": str(folder)} | dict(summary))
        return
    show_pairs(title(summary), result_rows(folder, summary))
    for number, command in enumerate(next_steps(folder, summary)):
        print_line(f"{'next:' if number == 0 else '     '} {command}")  # whole: lines to copy are not broken


def print_json(content: Mapping[str, Any]) -> None:
    """Print an object, alone on standard output."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
