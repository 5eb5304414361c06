"""The command that says what a setting means, on one screen, before anything is trained."""

from collections.abc import Mapping

from simulations import presets
from simulations.cli.common import Overrides, Preset, key_values, one_line_errors, print_line, settings_of, show_pairs
from simulations.cli.results import Json, print_json


def explain(preset: Preset = None, config: Overrides = None, as_json: Json = False) -> None:
    """Show what a setting means, without training: values sent, SNR, energy, time on the air, the theory's noise."""
    with one_line_errors():
        settings = settings_of(preset, config, None)
        from simulations import explain as meaning
        from simulations.explained import rows, title

        given = key_values(config)
        explained = meaning.explain(settings, list(given))
        if as_json:
            print_json(explained.to_json())
            return
        show_pairs(title(explained), rows(explained))
        if keys := [*_of_preset(preset, given), *explained.keys.items()]:
            print_line("")
            show_pairs("keys", keys)


def _of_preset(name: str | None, given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the preset's keys that apply, in a line; `laser-fl list KEY` describes each."""
    if name is None:
        return []
    values = presets.beside(presets.load(name), given)
    return [(f"preset {name}", ", ".join(f"{key}={value}" for key, value in values.items()))]
