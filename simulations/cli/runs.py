"""Commands that train: one run, or one per strategy."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from laser_fl.config import RunConfig, parse_all
from laser_fl.errors import ConfigError, LaserError, brief, packages_for
from simulations.cli.common import (
    Overrides,
    Preset,
    Quiet,
    errors,
    key_values,
    one_line_errors,
    print_line,
    refuse_keys,
    settings_of,
    show,
    values_of,
)
from simulations.cli.results import Json, show_result

FIRST = "first"  # the preset of a comparison of which nobody says what it is about
OR_FIRST = f"Start from a preset; {FIRST}, where neither --preset nor -c task=... says otherwise."


class Over(StrEnum):
    """The horizontal axis of the scores."""

    rounds = "rounds"
    channel_uses = "channel-uses"
    energy = "energy"
    latency = "latency"


OVER_COLUMNS = {Over.rounds: "round", Over.latency: "latency_seconds", Over.channel_uses: "channel_uses"}


class Engine(StrEnum):
    """The engine, which decides where the clients run."""

    in_process = "in-process"
    flower = "flower"
    deployment = "deployment"


ENGINES = "In this process, through `flwr run`, or that on SuperLink and SuperNodes that are real processes."

LIVE = "Draw curve, SNR and time left on the terminal while the run goes; where there is none, print lines as without."


def run(
    preset: Preset = None,
    config: Overrides = None,
    engine: Annotated[Engine | None, typer.Option(help=ENGINES)] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="SuperNodes of Flower's engines; default 2.")] = None,
    port: Annotated[int | None, typer.Option(help="Of the deployment's SuperLink; default: a free one.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder, new or empty.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Folder of a run that stopped, or is to be longer: go on.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    live: Annotated[bool, typer.Option("--live", help=LIVE)] = False,
) -> None:
    """Train one model with one strategy; or go on with a run that stopped, or that -c rounds=N makes longer."""
    with one_line_errors():
        if resume is None:
            settings, engine = settings_of(preset, config, out), engine or Engine.in_process
        else:
            if given := [name for name, value in (("--preset", preset), ("--out", out)) if value]:
                raise ConfigError(f"--resume: takes all settings from the run, got {given[0]}, too")
            settings, engine, nodes = going_on(resume, engine, nodes, config)
        folder = _folder(settings)
        if nodes is not None and engine is Engine.in_process:
            raise ConfigError(f"--nodes: must go with --engine flower or deployment, got {nodes}")
        if port is not None and engine is not Engine.deployment:
            raise ConfigError(f"--port: must go with --engine deployment, got {port}")
        if live and quiet:
            raise ConfigError("--live: must go without --quiet, got both")
        live = live and errors.is_terminal
        if engine is Engine.in_process:
            summary = _run_in_process(settings, folder, quiet, live)
        else:
            with _drawn_from(folder) if live else nullcontext():
                if engine is Engine.flower:
                    summary = _run_on_flower(settings, folder, nodes or 2, quiet or live)
                else:
                    summary = _run_deployed(settings, folder, nodes or 2, port, quiet or live)
        show_result(folder, summary, as_json)


def compare(
    preset: Annotated[
        str | None, typer.Option(help=f"Start from a preset; {FIRST}, where no -c task is given.")
    ] = None,
    config: Overrides = None,
    strategies: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    over: Annotated[Over, typer.Option(help="What the picture draws scores over.")] = Over.rounds,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs, the table and the picture.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train the same model with several strategies over the same channel; draw their scores."""
    with one_line_errors():
        from laser_fl.registry import SCHEMES

        with packages_for("compare", "laser-fl"):
            from laser_fl.storage.files import COMPARISON, folder_name
            from simulations.compare import frame, listing, picture
        from simulations.progress import Display
        from simulations.side_by_side import run_all

        refuse_keys(config, "strategy")
        names = [name.strip() for name in strategies.split(",")] if strategies is not None else list(SCHEMES)
        if len(set(names)) < len(names):
            raise ConfigError(f"--strategies: must name each once, got {strategies!r}")
        values = values_of(preset or (None if "task" in key_values(config) else FIRST), config, out)
        settings, *_ = parse_all([values | {"strategy": name} for name in names])
        root = Path(settings.out_dir or f"runs/compare-{datetime.now():%Y%m%d-%H%M%S}").expanduser()
        each = [values | {"strategy": name, "out-dir": str(root / folder_name(name))} for name in names]
        runs = dict(zip(names, parse_all(each), strict=True))
        with Display(errors, quiet) as display:
            outcomes = run_all(runs, display.show)
        drawn = picture(outcomes, settings, root, OVER_COLUMNS.get(over, over.value))
        frame(outcomes).to_csv(root / COMPARISON, index=False)
        show(listing(outcomes, settings))
        if drawn is not None:
            print_line(f"picture: {drawn}")
        if failed := [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.reason]:
            raise LaserError("\n".join(failed))


def going_on(
    folder: Path, engine: Engine | None, nodes: int | None, overrides: list[str] | None = None
) -> tuple[RunConfig, Engine, int | None]:
    """Return the settings, the engine and the number of nodes with which the run in `folder` goes on.

    Args:
        folder: of the run.
        engine: as asked for; None: as before.
        nodes: as asked for; None: as before.
        overrides: its new length, each KEY=VALUE, where it is to be longer.

    Raises:
        ConfigError: the run cannot go on like this.
    """
    from laser_fl.storage.resume import LENGTHS, about, lengthened

    known, lengths = about(folder), key_values(overrides)
    if others := [key for key in lengths if key not in LENGTHS]:
        rule = f"takes all settings but {' and '.join(LENGTHS)} from the run"
        raise ConfigError(f"--resume: {rule}, got -c {brief(others[0])}, too")
    was = Engine(known.engine)
    if engine is None or {engine, was} == {Engine.deployment, Engine.flower}:
        engine = engine or was  # Flower's engines go on with each other's runs
    if nodes is not None and known.nodes not in (nodes, None):
        raise ConfigError(f"--nodes: must be {known.nodes} as in the run that goes on, got {nodes}")
    return lengthened(known.config, lengths), engine, None if engine is Engine.in_process else nodes or known.nodes


def _folder(settings: RunConfig) -> Path:
    from laser_fl.storage.run_folder import path_of

    return path_of(settings, datetime.now())


def _drawn_from(folder: Path) -> AbstractContextManager[Any]:
    """Return the display of a run that other processes write into `folder`."""
    from simulations.live import LiveDisplay
    from simulations.watching import FolderReader

    return LiveDisplay(errors, FolderReader(folder).progress)


def _run_live(settings: RunConfig, folder: Path) -> dict[str, Any]:
    """Run in this process, and draw the progress."""
    from simulations.engines import in_process
    from simulations.live import LiveDisplay, LiveRun
    from simulations.progress import Reporter
    from simulations.signals import ending_on_signals

    drawn = LiveRun(settings.strategy)
    with ending_on_signals(), LiveDisplay(errors, drawn.progress) as display:
        warnings = Reporter(settings.strategy, lambda report: display.note(report.warning) if report.warning else None)
        return in_process.run(settings, folder, [drawn, warnings])


def _run_in_process(settings: RunConfig, folder: Path, quiet: bool, live: bool) -> dict[str, Any]:
    if live:
        return _run_live(settings, folder)
    from simulations.engines import in_process
    from simulations.progress import Display, Reporter
    from simulations.signals import ending_on_signals

    with ending_on_signals(), Display(errors, quiet) as display:
        return in_process.run(settings, folder, [Reporter(settings.strategy, display.show)])


def _run_on_flower(settings: RunConfig, folder: Path, nodes: int, quiet: bool) -> dict[str, Any]:
    with packages_for("engine=flower", "laser-fl"):
        from simulations.engines import flower

    return flower.run(settings, folder, nodes, _log_printer(quiet))


def _run_deployed(settings: RunConfig, folder: Path, nodes: int, port: int | None, quiet: bool) -> dict[str, Any]:
    with packages_for("engine=deployment", "laser-fl"):
        from simulations.engines import deployment

    return deployment.run(settings, folder, nodes, _log_printer(quiet), port)


def _log_printer(quiet: bool) -> Callable[[str], None]:
    """Return the function that prints the lines of Flower's log."""

    def show(line: str) -> None:
        if not quiet:
            errors.print(Text.from_ansi(line), soft_wrap=True)

    return show
