"""The command that attaches to a run, which may go on in another process, or have ended."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.cli.common import FAILED, console, one_line_errors, print_line
from simulations.cli.results import show_result

if TYPE_CHECKING:
    from simulations.live import Progress

POLL_SECONDS = 0.5


def watch(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")]) -> None:
    """Show a run that goes on, or has ended: curve, SNR, time left, result; a line per evaluation without a terminal.

    The tables in a run's folder grow at its evaluations and checkpoints, and so does what is shown. Ctrl-C ends the
    watching, not the run. The exit status is 1 where the run failed, was interrupted or was killed.
    """
    with one_line_errors():
        from simulations.run_result import read_summary

        _on_a_terminal(folder) if console.is_terminal else _in_lines(folder)
        summary = read_summary(folder)
        assert summary is not None
        show_result(folder, summary)
        if summary["status"] != "completed":
            raise typer.Exit(FAILED)


def _pause() -> None:
    time.sleep(POLL_SECONDS)


def _in_lines(folder: Path) -> None:
    """Print a line per evaluation."""
    from simulations.watching import follow

    shown = 0
    for progress in follow(folder, _pause):
        for metrics in progress.evaluations:
            if metrics.round > shown:
                print_line(metrics.line(progress.rounds or metrics.round))
                shown = metrics.round


def _on_a_terminal(folder: Path) -> None:
    """Draw the progress, again and again."""
    from simulations.live import LiveDisplay
    from simulations.watching import follow

    steps = follow(folder, _pause)
    latest: list[Progress] = [next(steps)]  # errors of the folder come before the display
    with LiveDisplay(console, lambda: latest[0]):
        for progress in steps:
            latest[0] = progress
