"""The command ``laser-fl``. Heavy imports wait until a command needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError, DataError, LaserError
from simulations import presets

if TYPE_CHECKING:
    import pandas as pd

    from simulations.sweep import Run

REFUSED, FAILED = 2, 1

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)


class Over(StrEnum):
    """What accuracy is drawn over."""

    rounds = "rounds"
    channel_uses = "channel-uses"
    energy = "energy"
    latency = "latency"


OVER_COLUMNS = {Over.rounds: "round", Over.latency: "latency_seconds", Over.channel_uses: "channel_uses"}


class Engine(StrEnum):
    """Where the clients run."""

    in_process = "in-process"
    flower = "flower"


Preset = Annotated[str | None, typer.Option("--preset", help="Start from a preset; see `laser-fl list`.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--config", "-c", metavar="KEY=VALUE", help="Set a config key; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]


@app.callback()
def main() -> None:
    """Learning over the air: LASER and its baselines at equal, verified power."""


@app.command()
def run(
    preset: Preset = None,
    config: Overrides = None,
    engine: Annotated[Engine, typer.Option(help="In this process, or through `flwr run`.")] = Engine.in_process,
    nodes: Annotated[int | None, typer.Option(min=1, help="SuperNodes of the flower engine; default 2.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder, new or empty.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train one model with one strategy."""
    with _one_line_errors():
        settings = _settings(preset, config, out)
        folder = Path(settings.out_dir).expanduser() if settings.out_dir else _default_folder(settings)
        if nodes is not None and engine is not Engine.flower:
            raise ConfigError(f"--nodes: must go with --engine flower, got {nodes}")
        if engine is Engine.flower:
            summary = _run_on_flower(settings, folder, nodes or 2, quiet)
        else:
            summary = _run_in_process(settings, folder, quiet)
        console.print(_summary_table(summary, folder))


@app.command()
def compare(
    preset: Preset = None,
    config: Overrides = None,
    strategies: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    over: Annotated[Over, typer.Option(help="What the picture draws accuracy over.")] = Over.rounds,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs, the table and the picture.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train the same model with several strategies over the same channel; draw their accuracy."""
    with _one_line_errors():
        from laser_fl.schemes import SCHEMES
        from simulations.compare import frame, picture, table
        from simulations.progress import Display
        from simulations.side_by_side import run_all

        _refuse_keys(config, "strategy")
        settings = _settings(preset, config, out)
        root = Path(settings.out_dir or f"runs/compare-{datetime.now():%Y%m%d-%H%M%S}").expanduser()
        values = settings.to_flat()
        names = [name.strip() for name in strategies.split(",")] if strategies is not None else list(SCHEMES)
        if len(set(names)) < len(names):
            raise ConfigError(f"--strategies: must name each once, got {strategies!r}")
        runs = {name: parse(values | {"strategy": name, "out-dir": str(root / name)}) for name in names}
        with Display(console, quiet) as display:
            outcomes = run_all(runs, display.show)
        picture(outcomes, settings, root / "accuracy.png", OVER_COLUMNS.get(over, over.value))
        frame(outcomes).to_csv(root / "comparison.csv", index=False)
        console.print(table(outcomes, settings))
        console.print(f"picture: {root / 'accuracy.png'}", soft_wrap=True, highlight=False)
        if failed := [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.reason]:
            raise LaserError("\n".join(failed))


class Scale(StrEnum):
    """How much a reproduction runs."""

    full = "full"
    small = "small"


Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; default: this machine.")]
Cpus = Annotated[int, typer.Option(min=1, help="CPUs that each run takes.")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs, or a part of one, that each run takes.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the runs and the time they will take; run nothing.")]


@app.command()
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
    with _one_line_errors():
        from simulations.sweep import RESULTS, read_grid, results, runs_of

        root = out or Path("runs") / file.stem
        grid = read_grid(file)
        runs = runs_of([grid], root)
        if dry_run:
            _show_plan(runs, cpus, gpus)
            return
        failed = _execute(runs, address, cpus, gpus, quiet)
        table = results(runs, root, [grid])
        console.print(f"{len(table)} of {len(runs)} runs completed: {root / RESULTS}", soft_wrap=True, highlight=False)
        if failed:
            raise LaserError("\n".join(f"{label}: {reason}" for label, reason in failed.items()))


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="The table or figure; see `laser-fl list`.")],
    scale: Annotated[Scale, typer.Option(help="The paper's settings, or fewer rounds.")] = Scale.small,
    config: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Its folder; default runs/<name>-<scale>.")] = None,
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run what a table or figure needs, draw it, and say how far it is from the paper's."""
    with _one_line_errors():
        from simulations.figures import FIGURES

        if name not in FIGURES:
            raise ConfigError(f"figure: must be one of {', '.join(FIGURES)}, got {name!r}")
        from simulations.figures.base import scores
        from simulations.sweep import RESULTS, results, runs_of

        figure = FIGURES.load(name)
        _refuse_own_keys(config, figure.keys(scale))
        root = out or Path("runs") / f"{name}-{scale}"
        overrides = _overrides(config)
        grids = [replace(grid, fixed={**grid.fixed, **overrides}) for grid in figure.scales[scale].grids]
        runs = runs_of(grids, root)
        if dry_run:
            console.print(f"{figure.title}, {scale}: stated time {figure.scales[scale].time}")
            _show_plan(runs, cpus, gpus)
            return
        failed = _execute(runs, address, cpus, gpus, quiet)
        table = results(runs, root, grids)
        if failed and not any(grid.best_of for grid in grids):  # there, what fails is not the best
            raise LaserError("\n".join(f"{label}: {reason}" for label, reason in failed.items()))
        verdicts = scores(table, figure)
        verdicts.to_csv(root / "scores.csv", index=False)
        figure.draw(table).savefig(root / f"{name}.png", dpi=150)
        console.print(_frame_table(verdicts, f"{figure.title}, {scale}"))
        for file in (RESULTS, "scores.csv", f"{name}.png"):
            console.print(str(root / file), soft_wrap=True, highlight=False)


@app.command()
def holdings(
    preset: Preset = None,
    config: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("holdings.png"),
) -> None:
    """Draw which labels each client holds under the config's partition."""
    with _one_line_errors():
        settings = _settings(preset, config, None)
        from laser_fl.setup import data_dir
        from laser_fl.tasks import TASKS
        from laser_fl.tasks.base import Examples
        from simulations.holdings import draw

        data = TASKS.load(settings.task)(data_dir(settings), settings).train
        if not isinstance(data, Examples):
            raise ConfigError(f"task: must have labels, got {settings.task!r}")
        counts = draw(data.targets, settings, out)
        console.print(f"picture: {out}; examples per client: {counts.sum(axis=1).min()} to {counts.sum(axis=1).max()}")


@app.command()
def volume(
    model: Annotated[str, typer.Option(help="The network; see `laser-fl list`.")] = "mlp",
    strategy: Annotated[str | None, typer.Option(help="One strategy; default: all.")] = None,
    config: Overrides = None,
) -> None:
    """Show what a client sends per round for a model, in values and bytes, without training it."""
    with _one_line_errors():
        _refuse_unknown_model(model)
        _refuse_keys(config, "model", "strategy")
        settings = _settings(None, config, None)
        if strategy is not None:
            settings = parse(settings.to_flat() | {"strategy": strategy})
        from simulations.volume import FLOAT_BYTES, all_volumes, model_blocks, volumes

        blocks = model_blocks(model, settings)
        total = sum(block.size for block in blocks)
        title = f"{model}: {total:,} values, {total * FLOAT_BYTES / 1e6:,.2f} MB, per client and round"
        caption = "laser alternating sends one factor a round, in turn; aside: bytes of the noiseless side channel"
        table = Table(title=title, caption=caption, box=box.SIMPLE)
        for head in ("strategy", "rounds", "values", "bytes", "MB", "ratio", "aside"):
            table.add_column(head, justify="left" if head in ("strategy", "rounds") else "right", no_wrap=True)
        for line in all_volumes(settings, blocks) if strategy is None else volumes(settings, blocks):
            ratio = f"{total * FLOAT_BYTES / line.bytes:,.0f}x" if line.bytes else ""
            size = f"{line.bytes / 1e6:,.2f}"
            table.add_row(
                line.strategy, line.rounds, f"{line.values:,}", f"{line.bytes:,}", size, ratio, f"{line.side_bytes:,}"
            )
        console.print(table)


@app.command()
def theory(
    model: Annotated[str, typer.Option(help="The network; see `laser-fl list`.")] = "mlp",
    config: Overrides = None,
) -> None:
    """Show, for a model and a power, where the paper's theory promises LASER less noise than Z-SGD."""
    with _one_line_errors():
        _refuse_unknown_model(model)
        _refuse_keys(config, "model", "strategy")
        settings = _settings(None, config, None)
        from simulations.influence import block_power, influences

        lines = influences(settings, model)
        share = f"each block's share worth P k²/(σ² L) = {block_power(settings, len(lines)):.4g}"
        table = Table(
            title=f"{model}, rank {settings.rank}: noise energy over gradient energy, {share}", box=box.SIMPLE
        )
        for head in ("block", "matrix", "Z-SGD", "LASER, at most", "less noise"):
            table.add_column(head, justify="left" if head == "block" else "right", overflow="fold")
        for line in lines:
            bound = "uncompressed" if line.laser_bound is None else f"{line.laser_bound:.3g}"
            table.add_row(line.block, f"{line.rows} x {line.columns}", f"{line.z_sgd:.3g}", bound, line.less_noise)
        console.print(table)


@app.command("list")
def list_parts() -> None:
    """Show every strategy, channel, task, preset and config key."""
    from laser_fl.allocations import ALLOCATIONS
    from laser_fl.channels import CHANNELS
    from laser_fl.models import MODELS
    from laser_fl.policies import POLICIES
    from laser_fl.schemes import SCHEMES
    from laser_fl.schemes.exchanges import EXCHANGES
    from laser_fl.schemes.receivers import RECEIVERS
    from laser_fl.tasks import TASKS

    parts = {
        "strategy": SCHEMES,
        "factor-exchange": EXCHANGES,
        "receiver": RECEIVERS,
        "channel": CHANNELS,
        "power-policy": POLICIES,
        "power-allocation": ALLOCATIONS,
        "task": TASKS,
        "model": MODELS,
    }
    for key, entries in parts.items():
        rows = [
            (name, entry.summary + (f"; models {', '.join(entry.options)}" if entry.options else ""))
            for name, entry in entries.items()
        ]
        console.print(_two_columns(key, rows))
    from simulations.figures import FIGURES

    console.print(_two_columns("figure", [(name, entry.summary) for name, entry in FIGURES.items()]))
    console.print(_two_columns("preset", [(name, "laser-fl run --preset " + name) for name in presets.names()]))
    keys = [
        (field.alias or name, f"{field.description} (default {field.default!r})")
        for name, field in RunConfig.model_fields.items()
    ]
    console.print(_two_columns("config key", keys))


def _settings(preset: str | None, overrides: list[str] | None, out: Path | None) -> RunConfig:
    """The run config: defaults, then the preset, then -c, then --out."""
    values: dict[str, Any] = {**(presets.load(preset) if preset else {}), **_overrides(overrides)}
    if out is not None:
        values["out-dir"] = str(out)
    return parse(values)


def _overrides(overrides: list[str] | None) -> dict[str, str]:
    """The keys and values of -c."""
    values = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"-c: must be KEY=VALUE, got {override!r}")
        values[key.strip()] = value.strip()
    return values


def _refuse_own_keys(overrides: list[str] | None, own: set[str]) -> None:
    """Refuse config keys that a figure varies itself."""
    if fixed := own & _overrides(overrides).keys():
        raise ConfigError(f"{min(fixed)}: is varied by the figure itself, got it by -c")


def _execute(runs: "list[Run]", address: str | None, cpus: int, gpus: float, quiet: bool) -> dict[str, str]:
    """Carry the runs out with a bar over all of them, or a line per run."""
    from simulations.progress import SweepDisplay
    from simulations.sweep import execute

    with SweepDisplay(console, runs, quiet) as display:
        return execute(runs, display.show, address, cpus, gpus)


def _show_plan(runs: "list[Run]", cpus: int, gpus: float) -> None:
    """The runs, which of them are completed, and the time that the others will take here."""
    from simulations.sweep import estimate

    for run in runs:
        console.print(f"{'done' if run.summary else 'to do'}  {run.label}", soft_wrap=True, highlight=False)
    at_once = _cores() // cpus
    if gpus > 0:
        import torch

        at_once = min(at_once, int(torch.cuda.device_count() / gpus))
    seconds = estimate(runs, max(1, at_once))
    console.print(f"{sum(run.summary is None for run in runs)} of {len(runs)} to do, about {seconds / 60:.1f} minutes")


def _cores() -> int:
    from simulations.side_by_side import cores

    return cores()


def _frame_table(frame: "pd.DataFrame", title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in frame.columns:
        table.add_column(str(column), justify="right" if frame[column].dtype.kind in "fi" else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return table


def _refuse_keys(overrides: list[str] | None, *keys: str) -> None:
    """Refuse config keys for which a command has an option of its own."""
    for override in overrides or []:
        if (key := override.partition("=")[0].strip()) in keys:
            option = "--strategies" if keys == ("strategy",) else f"--{key}"
            raise ConfigError(f"{key}: must be given by {option} here, got -c {override}")


def _refuse_unknown_model(name: str) -> None:
    from laser_fl.models import MODELS

    if name not in MODELS:
        raise ConfigError(f"--model: must be one of {', '.join(MODELS)}, got {name!r}")


def _default_folder(settings: RunConfig) -> Path:
    from laser_fl.run_folder import default_path

    return default_path(settings, datetime.now())


def _run_in_process(settings: RunConfig, folder: Path, quiet: bool) -> dict[str, Any]:
    from simulations.engines import in_process
    from simulations.progress import Display, Reporter

    with Display(console, quiet) as display:
        return in_process.run(settings, folder, [Reporter(settings.strategy, display.show)])


def _run_on_flower(settings: RunConfig, folder: Path, nodes: int, quiet: bool) -> dict[str, Any]:
    from simulations.engines import flower

    def show(line: str) -> None:
        if not quiet:
            console.print(Text.from_ansi(line), soft_wrap=True)

    return flower.run(settings, folder, nodes, show)


def _summary_table(summary: dict[str, Any], folder: Path) -> Table:
    return _two_columns("run folder", [(str(key), str(value)) for key, value in summary.items()], str(folder))


def _two_columns(left: str, rows: list[tuple[str, str]], right: str = "") -> Table:
    table = Table(left, right, box=None, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors that a user can mend are one line each and an exit status, never a traceback."""
    try:
        yield
    except LaserError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        refused = isinstance(error, (ConfigError, DataError))
        raise typer.Exit(REFUSED if refused else FAILED) from None
