"""Commands that train nothing: the clients' data, the values that they send, the theory, the list of all parts."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laser_fl.errors import ConfigError, did_you_mean, packages_for
from simulations.cli.common import (
    Overrides,
    Preset,
    one_line_errors,
    print_line,
    refuse_keys,
    settings_of,
    show,
    show_pairs,
)
from simulations.texts import Listing

if TYPE_CHECKING:
    from simulations.catalogue import Item


def holdings(
    preset: Preset = None,
    config: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("holdings.png"),
) -> None:
    """Draw which labels each client holds under the config's partition."""
    with one_line_errors():
        settings = settings_of(preset, config, None)
        from laser_fl.data.examples import Examples
        from laser_fl.federated.setup import data_dir
        from laser_fl.registry import TASKS

        with packages_for("holdings", "laser-fl[partitions]"):
            from simulations.holdings import draw

        data = TASKS.build(settings.task, settings)(data_dir(settings), settings).train
        if not isinstance(data, Examples) or data.targets.is_floating_point() or data.targets.ndim > 1:
            raise ConfigError(f"task: must have labels, got {settings.task!r}")
        counts = draw(data, settings, out)
        print_line(f"picture: {out}; examples per client: {counts.sum(axis=1).min()} to {counts.sum(axis=1).max()}")


def volume(
    model: Annotated[str, typer.Option(help="The network; see `laser-fl list`.")] = "mlp",
    strategy: Annotated[str | None, typer.Option(help="One strategy; default: all.")] = None,
    config: Overrides = None,
) -> None:
    """Show what a client sends per round for a model, in values and bytes, without training it."""
    with one_line_errors():
        _refuse_unknown_model(model)
        refuse_keys(config, "model", "strategy")
        settings = settings_of(None, [*(config or []), *([f"strategy={strategy}"] if strategy else [])], None)
        from simulations.volume import listing

        show(listing(model, settings, strategy))


def theory(
    model: Annotated[str, typer.Option(help="The network; see `laser-fl list`.")] = "mlp",
    config: Overrides = None,
) -> None:
    """Show, for a model and a power, where the paper's theory promises LASER less noise than Z-SGD."""
    with one_line_errors():
        _refuse_unknown_model(model)
        refuse_keys(config, "model", "strategy")
        settings = settings_of(None, config, None)
        from simulations.influence import block_power, influences

        lines = influences(settings, model)
        share = f"each block's share worth P k²/(σ² L) = {block_power(settings, len(lines)):.4g}"
        title = f"{model}, rank {settings.rank}: noise energy over gradient energy, {share}"
        numbers, rows = ("matrix", "Z-SGD", "LASER, at most", "less noise"), []
        for line in lines:
            bound = "uncompressed" if line.laser_bound is None else f"{line.laser_bound:.3g}"
            rows.append((line.block, f"{line.rows} x {line.columns}", f"{line.z_sgd:.3g}", bound, line.less_noise))
        show(Listing(title, ("block", *numbers), rows, numbers))


def list_parts(
    name: Annotated[
        str | None, typer.Argument(help="A part, key or preset, or any word: rayleigh, truncated inversion, QPSK.")
    ] = None,
) -> None:
    """Show every strategy, channel, task, preset and config key; or one of them, with its values and rules."""
    with one_line_errors():
        from simulations.catalogue import found, items

        if name is None:
            for section, members in groupby(items(), lambda item: item.section):
                show_pairs(section, [(item.name, _line(item)) for item in members])
                print_line("")
            return
        chosen = found(name)
        if not chosen:
            rule = "must be a part, a key, a preset or a word that describes one"
            raise ConfigError(f"NAME: {rule}, got {name!r}{did_you_mean(name, (item.name for item in items()))}")
        for item in chosen:
            show_pairs(f"{item.section} {item.name}", [("", item.about), *item.details])
            print_line("")


def _line(item: "Item") -> str:
    """Return an item's description; a key's with its default, its values and the part that it belongs to."""
    more = [f"{name} {value}" for name, value in item.details] if item.section == "config key" else []
    return "; ".join([item.about, *more])


def _refuse_unknown_model(name: str) -> None:
    from laser_fl.registry import MODELS

    if not MODELS.find(name):
        raise ConfigError(f"--model: must be one of {', '.join(MODELS)}, got {name!r}{did_you_mean(name, MODELS)}")
