"""The command ``laser-fl``. Heavy imports wait until a command needs them."""

import typer

from simulations.cli import benchmarks, explain, grids, new, parts, reports, runs, watching
from simulations.cli.readable import print_readably

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Learning over the air: LASER and its baselines at equal, verified power."""
    print_readably()


for command in (
    new.new,
    runs.run,
    watching.watch,
    runs.compare,
    grids.sweep,
    grids.reproduce,
    reports.report,
    benchmarks.bench,
    explain.explain,
    parts.holdings,
    parts.volume,
    parts.theory,
):
    app.command()(command)
app.command("list")(parts.list_parts)
