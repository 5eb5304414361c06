"""The command that says what a setting means, on one screen, before anything is trained."""

from simulations.cli.common import Overrides, Preset, key_values, one_line_errors, print_line, settings_of, show_pairs
from simulations.cli.results import Json, print_json


def explain(preset: Preset = None, config: Overrides = None, as_json: Json = False) -> None:
    """Show what a setting means, without training: values sent, SNR, energy, time on the air, the theory's noise."""
    with one_line_errors():
        settings = settings_of(preset, config, None)
        from simulations import explain as meaning
        from simulations.explained import rows, title

        explained = meaning.explain(settings, list(key_values(config)))
        if as_json:
            print_json(explained.to_json())
            return
        show_pairs(title(explained), rows(explained))
        if explained.keys:
            print_line("")
            show_pairs("keys", list(explained.keys.items()))
