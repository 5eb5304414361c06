"""Commands that train many times: a sweep, and a table or figure of the paper."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laser_fl.errors import LaserError, packages_for
from simulations.cli.common import Overrides, Quiet, errors, key_values, one_line_errors, print_line, show_frame

if TYPE_CHECKING:
    from simulations.sweep import Run


class Scale(StrEnum):
    """The scale of a reproduction."""

    full = "full"
    small = "small"


SWEEPS = "laser-fl[sweeps]"
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; default: this machine.")]
Cpus = Annotated[int, typer.Option(min=1, help="CPUs that each run takes.")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs, or a part of one, that each run takes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the runs and the time they will take; run nothing.")]


def sweep(
    file: Annotated[Path, typer.Argument(help="TOML: preset, and the tables fixed, grid and best-of.")],
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; default runs/<name of the file>.")] = None,
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run a grid of configs over a Ray cluster; what is completed already is not run again."""
    with one_line_errors():
        with packages_for("sweep", SWEEPS):
            import pyarrow  # noqa: F401  pandas writes the results with it, after all runs

            from simulations.results import RESULTS, results
        from simulations.sweep import read_grid, runs_of

        root = out or Path("runs") / file.stem
        grid = read_grid(file)
        runs = runs_of([grid], root)
        if dry_run:
            _show_dry_run(runs, cpus, gpus)
            return
        failed = _execute(runs, address, cpus, gpus, quiet)
        table = results(runs, root, [grid])
        print_line(f"{len(table)} of {len(runs)} runs completed: {root / RESULTS}")
        _report_failures(failed)


def reproduce(
    name: Annotated[str, typer.Argument(help="The table or figure; see `laser-fl list`.")],
    scale: Annotated[Scale, typer.Option(help="The paper's settings, or fewer rounds.")] = Scale.small,
    config: Overrides = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="Only these values of a key; may be repeated for others."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Its folder; default runs/<name>-<scale>, -changed with -c or --only.")
    ] = None,
    runs_folder: Annotated[
        Path, typer.Option("--runs", help="Where the runs lie; figures that need the same run share it.")
    ] = Path("runs/reproduce"),
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run what a table or figure needs, draw it, and report how far it is from the paper's."""
    with one_line_errors():
        with packages_for("reproduce", SWEEPS):
            import pyarrow  # noqa: F401  likewise

            from simulations.reproduction import Reproduction

        wanted = {key: values.split(",") for key, values in key_values(only, "--only").items()}
        made = Reproduction.asked(name, scale, key_values(config, "-c"), wanted)
        runs = made.runs(runs_folder)
        if dry_run:
            print_line(f"{made.title}: stated time {made.figure.scales[scale].time}")
            _show_dry_run(runs, cpus, gpus)
            return
        failed = _execute(runs, address, cpus, gpus, quiet)
        folder = out or made.default_folder
        if not runs or any(run.summary for run in runs):
            for part, table in made.write(runs, folder).items():
                show_frame(table, f"{made.title}: {part}")
            for file in (*made.tables(folder).values(), *made.pictures(folder)):
                print_line(file)
        _report_failures(failed)


def _report_failures(failed: dict[str, str]) -> None:
    if failed:
        raise LaserError("\n".join(f"{label}: {reason}" for label, reason in failed.items()))


def _execute(runs: "list[Run]", address: str | None, cpus: int, gpus: float, quiet: bool) -> dict[str, str]:
    """Carry out the runs, with a bar over all of them or a line per run; return why some failed, by label."""
    from simulations.progress import SweepDisplay
    from simulations.sweep import execute

    with SweepDisplay(errors, runs, quiet) as display:
        return execute(runs, display.show, address, cpus, gpus, display.note)


def _show_dry_run(runs: "list[Run]", cpus: int, gpus: float) -> None:
    """Print the runs, which of them are completed, and the time that the others will take here."""
    from simulations.side_by_side import cores
    from simulations.sweep import estimate

    for run in runs:
        print_line(f"{'done' if run.summary else 'to do'}  {run.label}")
    at_once = cores() // cpus
    if gpus > 0:
        import torch

        at_once = min(at_once, int(torch.cuda.device_count() / gpus))
    seconds = estimate(runs, max(1, at_once))
    print_line(f"{sum(run.summary is None for run in runs)} of {len(runs)} to do, about {seconds / 60:.1f} minutes")
