"""The command that makes a page of the other commands' results."""

from pathlib import Path
from typing import Annotated

import typer

from laser_fl.errors import ConfigError, packages_for
from simulations.cli.common import one_line_errors, print_line


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Of runs, comparisons, sweeps, reproductions.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page; default report.html in the first folder.")] = None,
) -> None:
    """Make one page of HTML, with everything in it, and pictures in the paper's style beside it."""
    with one_line_errors():
        with packages_for("report", "laser-fl[report]"):
            from simulations import report as page

        target = out or folders[0] / "report.html"
        try:
            files = page.write(folders, target)
        except OSError as error:
            raise ConfigError(
                f"--out: must be writable, with all pictures beside it readable ({error.strerror}), got {str(target)!r}"
            ) from None
        for file in files:
            print_line(file)
