"""Write down the options that the parts declare, where they are needed without importing the parts.

    python .ci/generate.py          writes them
    python .ci/generate.py --check  fails where they are not as written

- laser_fl/config/part_options.py: the options as keys of the run config, so that a config and a list of keys import no
  PyTorch.
- laser_fl/config/server_options.py: the keys that loops of one's own, strategies and `laser_fl.train` take as keyword
  arguments.
- pyproject.toml: the run config of the Flower app, since Flower refuses keys that are not declared there.
"""

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from laser_fl.registry import KINDS, options_of
from laser_fl.registry.options import Declared

ROOT = Path(__file__).parents[1]
BOUNDS = ("gt", "ge", "lt", "le")


def declared() -> dict[tuple[str, str], dict[str, Declared]]:
    """Return the options of all built-in parts, by (key, name)."""
    return {
        (key, name): dict(options)
        for key, table in KINDS.items()
        if key != "factor-exchange"  # LASER's own
        for name in table
        if (options := options_of(table.load(name)))
    }


def type_text(one: Declared) -> str:
    """Write an option's type with its rule."""
    option = one.option
    kind = f"Literal{list(get_args(one.type))}" if get_origin(one.type) is Literal else one.type.__name__
    kind = kind.replace("'", '"')
    if option.part:
        return f'Annotated[str, part("{option.part}")]'
    if option.infinite:
        return "Number"
    rules = [f"{bound}={getattr(option, bound)!r}" for bound in BOUNDS if getattr(option, bound) is not None]
    rules += ["allow_inf_nan=False"] if one.type is float else []
    return f"Annotated[{kind}, Field({', '.join(rules)})]" if rules else kind


def loosest(ones: list[Declared]) -> Declared:
    """Return the option of a key that several parts declare: with the loosest of their rules."""
    return min(ones, key=lambda one: (one.option.gt is not None, one.option.gt or one.option.ge or 0, _most(one)))


def _most(one: Declared) -> float:
    """Return a key that is least for the loosest upper bound."""
    most = one.option.le if one.option.le is not None else one.option.lt
    return -math.inf if most is None else -most


def default_text(value: Any) -> str:
    """Write a default."""
    text = repr(value).replace("'", '"')
    return {"inf": "math.inf", "-inf": "-math.inf"}.get(text, text)


def keys(parts: dict[tuple[str, str], dict[str, Declared]]) -> dict[str, list[Declared]]:
    """Return the declarations of each key."""
    found: dict[str, list[Declared]] = {}
    for name, one in chain.from_iterable(options.items() for options in parts.values()):
        found.setdefault(name, []).append(one)
    for name, ones in found.items():
        if len({(one.type, one.default) for one in ones}) > 1:
            sys.exit(f"{name}: must have the same type and default in all parts that declare it")
    return found


def part_options() -> Iterator[str]:
    """Write laser_fl/config/part_options.py."""
    parts = declared()
    yield '"""The options of all built-in parts as keys of the run config. Written by .ci/generate.py: do not edit."""'
    yield ""
    yield "import math"
    yield "from typing import Annotated, Any, Literal"
    yield ""
    yield "from pydantic import BaseModel, Field"
    yield ""
    yield "from laser_fl.config.rules import Number, part"
    yield ""
    yield ""
    yield "class PartOptions(BaseModel):"
    yield '    """The options of all built-in parts; where several parts share one, with the loosest of their rules."""'
    yield ""
    for name, ones in keys(parts).items():
        one = loosest(ones)
        yield f"    {name}: {type_text(one)} = Field("
        yield f'        {default_text(one.default)}, description="{one.option.description}",'
        yield "    )"
    yield ""
    yield ""
    yield "# The options of each part, by (key, name): their rules and descriptions."
    yield "DECLARED: dict[tuple[str, str], dict[str, tuple[Any, str]]] = {"
    for place, options in parts.items():
        yield f'    ("{place[0]}", "{place[1]}"): {{'
        for name, one in options.items():
            yield f'        "{name}": ({type_text(one)}, "{one.option.description}"),'
        yield "    },"
    yield "}"


def server_options() -> Iterator[str]:
    """Write laser_fl/config/server_options.py."""
    from laser_fl.config import AirConfig, RunConfig, ServerConfig
    from laser_fl.config.part_options import DECLARED

    of_parts = {name for place, options in DECLARED.items() if place[0] not in CLIENTS_ONLY for name in options}
    of_models = {name for place, options in DECLARED.items() if place[0] in ("task", "model") for name in options}
    of_air, of_server = (config.model_fields.keys() | of_parts for config in (AirConfig, ServerConfig))
    yield '"""The keys of a run as typed keyword arguments. Written by .ci/generate.py: do not edit."""'
    yield ""
    yield "from typing import Literal, TypedDict"
    sections = (
        ("AirOptions(TypedDict", "an air interface, but for scheme and channel", of_air),
        ("ServerOptions(AirOptions", "a server", of_server - of_air),
        ("RunOptions(ServerOptions", "a run on own data", RunConfig.model_fields.keys() - of_server - of_models),
    )
    for opening, whose, names in sections:
        yield ""
        yield ""
        yield f"class {opening}, total=False):"
        yield f'    """The keys of {whose}, in snake_case; see ``laser-fl list``."""'
        yield ""
        for name in RunConfig.model_fields:
            if name in names - ARGUMENTS:
                yield from typed(name)


def typed(name: str) -> Iterator[str]:
    """Write a key with its type and its description."""
    from laser_fl.config import RunConfig

    field = RunConfig.model_fields[name]
    kind: Any = field.annotation
    text = f"Literal{list(get_args(kind))}" if get_origin(kind) is Literal else kind.__name__
    yield f"    {name}: {text}".replace("'", '"')
    about = f"{field.description} (default {field.default!r})."
    yield textwrap.indent("\n".join(textwrap.wrap(f'"""{about}"""', 110)), "    ")


# Given in other ways than as options, or not at all.
ARGUMENTS = {"strategy", "channel", "task", "model", "resume", "tracker", "callbacks", "data_dir", "out_dir", "threads"}
CLIENTS_ONLY = ("task", "model", "partition", "tracker", "callbacks")


def app_config() -> str:
    """Write the Flower app's run config into pyproject.toml's text."""
    import tomli_w

    from laser_fl.config import RunConfig

    text = (ROOT / "pyproject.toml").read_text()
    before, begin, rest = text.partition("[tool.flwr.app.config]\n")
    after = rest[rest.index("\n[tool.") :]
    return before + begin + tomli_w.dumps(RunConfig().to_flat()) + after


WRITERS = {
    "laser_fl/config/part_options.py": lambda: formatted("\n".join(part_options()) + "\n"),
    "laser_fl/config/server_options.py": lambda: formatted("\n".join(server_options()) + "\n"),
    "pyproject.toml": app_config,
}


def main(check: bool) -> None:
    """Write the files, or compare them. The later ones are made from the first, so that it is imported anew."""
    for place, write in WRITERS.items():
        path, text = ROOT / place, write()
        if path.read_text() == text:
            continue
        if check:
            sys.exit(f"{place}: is not as the parts declare it: run python .ci/generate.py")
        path.write_text(text)
        os.execv(sys.executable, [sys.executable, __file__])


def formatted(text: str) -> str:
    """Format source as the project does."""
    command = [sys.executable, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml"), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
