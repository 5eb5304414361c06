"""The catalogue of all that a user can name: parts, keys, presets, figures, benchmarks. It imports no PyTorch."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from laser_fl.config import RunConfig
from laser_fl.config.part_options import DECLARED
from laser_fl.config.rules import rule_of, rule_text
from laser_fl.config.run_config import kebab
from laser_fl.errors import ConfigError
from laser_fl.registry import KINDS, Entry, options_of
from laser_fl.registry.outside import imported, load_plugins
from simulations import presets
from simulations.benchmarks import BENCHMARKS
from simulations.figures import FIGURES


@dataclass(frozen=True)
class Item:
    """One line of the catalogue.

    section: heading under which it stands. words: the field's other names for it.
    details: more about it, as names and values, which a list of everything leaves out.
    """

    section: str
    name: str
    about: str
    words: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()

    def matches(self, text: str) -> bool:
        """Return True where `text` occurs in its name, its description, its words or its details."""
        everything = " ".join((self.name, self.about, *self.words, *(f"{k} {v}" for k, v in self.details)))
        return text.casefold() in everything.casefold()


def items() -> Iterator[Item]:
    """Yield everything, section by section, parts of installed plug-ins included. Raises ConfigError as they do."""
    load_plugins()
    for key, table in KINDS.items():
        for name, entry in table.items():
            yield Item(key, name, _about(entry), entry.words, _options(key, name))
        for name, part in table.outside.items():
            about = ((part.__doc__ or "").strip().splitlines() or [""])[0]
            options = tuple(
                (kebab(option), f"{one.option.description}; {rule_of(one.annotation)}; default {one.default!r}")
                for option, one in options_of(part).items()
            )
            yield Item(key, name, f"{about} (registered by {part.__module__})", details=options)
    for section, named in (("figure", FIGURES), ("benchmark", BENCHMARKS)):
        for name, entry in named.items():
            yield Item(section, name, entry.summary, entry.words)
    for name in presets.names():
        values = tuple((key, str(value)) for key, value in presets.load(name).items())
        yield Item("preset", name, f"laser-fl run --preset {name}", details=values)
    yield from _keys()


def found(name: str) -> list[Item]:
    """Return the items of this very name; where there are none, those that mention it."""
    if ":" in name:
        _look_for(name)
    everything = list(items())
    return [item for item in everything if item.name == name] or [item for item in everything if item.matches(name)]


def _look_for(name: str) -> None:
    """Load a part from outside into the table of its kind, if it is of one. Raises ConfigError where it is not there.

    Functions differ by their number of arguments only.
    """
    imported(name, "NAME")
    for table in sorted(KINDS.values(), key=lambda table: not table.has_base):
        with suppress(ConfigError):
            if table.find(name):
                return


def _keys() -> Iterator[Item]:
    """Yield the keys of the run config; those of parts with the parts that declare them."""
    for option, field in RunConfig.model_fields.items():
        rule = rule_text(field.annotation, tuple(field.metadata))
        owners = [
            f"{key} {name}" + (f" ({own})" if (own := rule_of(options[option][0])) != rule else "")
            for (key, name), options in DECLARED.items()
            if option in options
        ]
        default = str(field.default).lower() if isinstance(field.default, bool) else repr(field.default)
        details = (("default", default), ("values", rule), ("of", ", ".join(owners) or "every run"))
        yield Item("config key", kebab(option), field.description or "", details=details)


def _options(key: str, name: str) -> tuple[tuple[str, str], ...]:
    """Return the options of a built-in part with their rules, as far as it has any."""
    defaults = RunConfig.model_fields
    return tuple(
        (kebab(option), f"{description}; {rule_of(kind)}; default {defaults[option].default!r}")
        for option, (kind, description) in DECLARED.get((key, name), {}).items()
    )


def _about(entry: Entry) -> str:
    return entry.summary + (f"; models {', '.join(entry.models)}" if entry.models else "")
