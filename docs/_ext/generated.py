"""Pages that are made of the program itself: config keys, parts, commands, columns of a run's files.

They are written into docs/reference/generated, which git ignores, and pages of docs/reference include them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, get_type_hints

import click
import typer

from laser_fl.config import AirConfig, RunConfig, ServerConfig
from laser_fl.config.part_options import DECLARED, PartOptions
from laser_fl.config.rules import rule_of, rule_text
from laser_fl.config.run_config import kebab
from simulations import presets
from simulations.catalogue import Item, items
from simulations.cli import app as commands

OF_PARTS = "Options of parts"
HEADINGS = {
    "task": "Tasks",
    "model": "Models",
    "partition": "Partitions",
    "strategy": "Strategies",
    "factor-exchange": "Ways of LASER's factors",
    "recovery": "Recoveries of A-DSGD",
    "receiver": "Update filters",
    "channel": "Channels",
    "power-policy": "Power policies",
    "power-allocation": "Power allocations",
    "tracker": "Trackers",
    "callbacks": "Callbacks",
    "figure": "Tables and figures",
    "benchmark": "Benchmarks",
}


def setup(app: Any) -> dict[str, Any]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference" / "generated"))
    return {"parallel_read_safe": True}


def write(folder: Path) -> None:
    """Write all pages; one that is as it was keeps its time, so that Sphinx does not read it again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in PAGES.items():
        path, text = folder / f"{name}.md", "\n".join(lines()) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def config_keys() -> Iterator[str]:
    """Yield tables of all keys: those of every run by their place, then those of parts."""
    keys = {item.name: item for item in items() if item.section == "config key"}
    for heading, names in key_groups().items():
        of_parts = heading == OF_PARTS
        yield from ("", f"## {heading}", "")
        rows = [key_row(keys[kebab(name)]) + ([owners(name)] if of_parts else []) for name in names]
        yield from table(["key", "default", "rule", "description", *(["part"] if of_parts else [])], rows)


def key_row(item: Item) -> list[str]:
    """Return a row of the table of keys. Its key is an anchor: config.html#key-power."""
    details = dict(item.details)
    return [f"`{item.name}`{{#key-{item.name}}}", code(details["default"].strip("'")), details["values"], item.about]


def key_groups() -> dict[str, list[str]]:
    """Return the names of all keys by heading, each once."""
    options = PartOptions.model_fields.keys()
    air, server, run = (config.model_fields.keys() - options for config in (AirConfig, ServerConfig, RunConfig))
    groups = {
        "The air: strategy, channel, power, clients": air,
        "The server": server - air,
        "The run: data, model, rounds, files": run - server,
        OF_PARTS: options,
    }
    return {heading: [name for name in RunConfig.model_fields if name in names] for heading, names in groups.items()}


def owners(option: str) -> str:
    """Return the parts that an option belongs to, each with its own rule where that is narrower than the key's."""
    field = RunConfig.model_fields[option]
    everywhere = rule_text(field.annotation, tuple(field.metadata))
    found = []
    for (key, name), options in DECLARED.items():
        if option in options:
            rule = rule_of(options[option][0])
            found.append(code(f"{key}={name}") + (f" ({rule})" if rule != everywhere else ""))
    return ", ".join(found)


def parts() -> Iterator[str]:
    """Yield a section of each kind of part, with the options that belong to it."""
    for section, members in groupby(items(), lambda item: item.section):
        if section in HEADINGS:
            yield from ("", f"## {HEADINGS[section]}", "")
            yield from table(["name", "description", "options"], [part_row(item) for item in members])


def part_row(item: Item) -> list[str]:
    """Return a row of the table of parts."""
    return [code(item.name), item.about, ", ".join(code(key) for key, _ in item.details)]


def preset_tables() -> Iterator[str]:
    """Yield the settings of every preset."""
    for name in presets.names():
        rows = [[code(key), code(value)] for key, value in presets.load(name).items()]
        yield from ("", f"## {name}", "", f"`laser-fl run --preset {name}`", "")
        yield from table(["key", "value"], rows)


def command_line() -> Iterator[str]:
    """Yield a section for each command: its help, arguments and options."""
    group = typer.main.get_command(commands)
    assert isinstance(group, click.Group)
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=f"laser-fl {name}")
        yield from ("", f"## laser-fl {name}", "", command.help or "", "")
        yield from ("```text", " ".join(command.get_usage(context).split()), "```", "")
        rows = [option_row(parameter, context) for parameter in command.params]
        yield from table(["argument or option", "description", "default"], rows) if rows else ()


def option_row(parameter: click.Parameter, context: click.Context) -> list[str]:
    """Return a row of the table of a command's arguments and options."""
    name, _ = parameter.get_help_record(context) or (parameter.make_metavar(context), "")
    about = getattr(parameter, "help", None) or declared_help(context.command.callback, parameter.name)
    default = getattr(parameter.default, "value", parameter.default)
    return [code(name), about, "required" if parameter.required else code(default if default else "")]


def declared_help(function: Any, name: str | None) -> str:
    """Return the help that a command declares for an argument, which typer keeps from click."""
    hint = get_type_hints(function, include_extras=True)[name or ""]
    return next((note.help for note in getattr(hint, "__metadata__", ()) if getattr(note, "help", None)), "")


def ledger_columns() -> Iterator[str]:
    """Yield the columns of ledger.csv, as the record's docstring describes them."""
    from docstrings import described

    from laser_fl.federated.ledger import LedgerRecord

    names = [field.name for field in fields(LedgerRecord)]
    text = (LedgerRecord.__doc__ or "").split("\n\n")[-1]
    yield from (line.replace("``", "`") for line in described(text, names))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table in Markdown."""
    yield row(heads)
    yield row(["---"] * len(heads))
    yield from map(row, rows)


def row(cells: Sequence[str]) -> str:
    """Return a row of a table. Names within angle brackets are no tags."""
    texts = (re.sub(r"(?<!`)<(\w[^<>`]*)>(?!`)", r"\\<\1\\>", " ".join(cell.split())) for cell in cells)
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def code(value: object) -> str:
    """Return a value as code; nothing for a default that is empty."""
    return f"`{value}`" if str(value) else ""


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "config_keys": config_keys,
    "parts": parts,
    "presets": preset_tables,
    "command_line": command_line,
    "ledger_columns": ledger_columns,
}
