"""The command that runs benchmarks."""

import json
from collections.abc import Iterable
from typing import Annotated

import typer

from laser_fl.errors import ConfigError, did_you_mean
from laser_fl.registry import SCHEMES
from simulations.cli.common import Overrides, key_values, one_line_errors


def bench(
    name: Annotated[str, typer.Argument(help="What to measure; see `laser-fl list`.")],
    rounds: Annotated[int, typer.Option(min=0, help="Rounds to time; 0: the benchmark's own choice.")] = 0,
    strategies: Annotated[
        str | None, typer.Option(help="Comma-separated, where there are several; default: all.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown instead.")] = False,
    config: Overrides = None,
) -> None:
    """Time rounds beside what they cannot do without; one JSON line per case."""
    with one_line_errors():
        from simulations.benchmarks import BENCHMARKS
        from simulations.benchmarks.base import Request

        if name not in BENCHMARKS:
            hint = did_you_mean(name, BENCHMARKS)
            raise ConfigError(f"NAME: must be one of {', '.join(BENCHMARKS)}, got {name!r}{hint}")
        chosen = () if strategies is None else tuple(one.strip() for one in strategies.split(","))
        if unknown := [one for one in chosen if one not in SCHEMES]:
            hint = did_you_mean(unknown[0], SCHEMES)
            raise ConfigError(f"--strategies: must be among {', '.join(SCHEMES)}, got {unknown[0]!r}{hint}")
        for number, line in enumerate(BENCHMARKS.load(name)(Request(rounds, chosen, key_values(config)))):
            if not markdown:
                typer.echo(json.dumps(line))
                continue
            del line["benchmark"]
            if number == 0:
                typer.echo(f"{_row(line)}\n{_row(['---'] * len(line))}")
            typer.echo(_row(line.values()))


def _row(cells: Iterable[object]) -> str:
    """Return a table's row; what is None stays empty."""
    return f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |"
