"""The only parser of the run config: keys and values as users write them, and errors of one line each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import Field, ValidationError, create_model

from laser_fl.config.part_options import PartOptions
from laser_fl.config.run_config import RunConfig, kebab
from laser_fl.errors import ConfigError, brief, did_you_mean, quoted
from laser_fl.registry import AUTO, KINDS, TASKS, options_of
from laser_fl.registry.options import Declared, hint_in, rule_in
from laser_fl.registry.outside import import_here


def parse(values: Mapping[Any, Any]) -> RunConfig:
    """Read a run config from flat keys; strings are converted. The options of chosen parts are keys, too.

    Raises:
        ConfigError: a value is wrong; a line for each: the key, the rule, the value received.
    """
    texts = {key: value for key, value in values.items() if _is_text(key)}
    wrong = [f"{quoted(key)}: must be a key, which is a text" for key in values if not _is_text(key)]
    model = _extended(tuple(_outside_parts(texts)))
    try:
        config = model.model_validate(_with_model(texts))
    except ValidationError as error:
        raise ConfigError("\n".join([*wrong, *(_line(e, model) for e in error.errors())])) from None
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config


def parse_all(many: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    """Read the configs of runs that are compared.

    The options of a part from outside are keys of those runs that choose it, and are left out of the others.

    Raises:
        ConfigError: as `parse`.
    """
    own = [{option for _, _, part in _outside_parts(values) for option in options_of(part)} for values in many]
    foreign = set().union(*own) - RunConfig.model_fields.keys()
    return [
        parse({key: value for key, value in values.items() if key.replace("-", "_") not in foreign - options})
        for values, options in zip(many, own, strict=True)
    ]


def restored(values: Mapping[str, Any], modules: Sequence[str]) -> RunConfig:
    """Read a config that comes from another process, after importing the modules that register its parts."""
    for module in modules:
        import_here(module)
    return parse(values)


def _outside_parts(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (key, name, part) of every part from outside that the values choose. Raises ConfigError."""
    for key, table in KINDS.items():
        value = values.get(key, values.get(key.replace("-", "_")))
        for name in table.names_in(value) if isinstance(value, str) else []:
            if name not in table and name != AUTO and table.find(name):
                yield key, name, table.load(name)


def _with_model(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the task's own model, where they leave it open."""
    task = values.get("task", RunConfig.model_fields["task"].default)
    if values.get("model", AUTO) != AUTO or not isinstance(task, str):
        return values
    models = TASKS[task].models if task in TASKS else ()
    return values | {"model": models[0] if models else AUTO}


@cache
def _extended(parts: tuple[tuple[str, str, Any], ...]) -> type[RunConfig]:
    """Return the config with the options of parts from outside. Raises ConfigError where two keys clash."""
    fields: dict[str, Any] = {}
    owners: dict[str, tuple[str, Declared]] = {}
    for key, name, part in parts:
        for option, declared in options_of(part).items():
            what = f"{key}: {name}"
            other, known = owners.setdefault(option, (what, declared))
            if known != declared:
                raise ConfigError(f"{what}: its option {kebab(option)} must be declared as that of {other}")
            _refuse_clash(what, option, declared)
            fields[option] = (declared.annotation, Field(declared.default, description=declared.option.description))
    return create_model("RunConfig", __base__=RunConfig, __module__=__name__, **fields) if fields else RunConfig


def _refuse_clash(what: str, option: str, declared: Declared) -> None:
    """Refuse an option with the name of a key that means something else."""
    field = RunConfig.model_fields.get(option)
    if field is None:
        if hasattr(RunConfig, option) or option.startswith("_"):
            raise ConfigError(f"{what}: its option {option} must have another name, which no key can have")
        return
    if option not in PartOptions.model_fields:
        raise ConfigError(f"{what}: its option {kebab(option)} must have another name, which is a key of every run")
    if field.default != declared.default or not issubclass(type(declared.default), type(field.default)):
        rule = f"must have the default of that key, {field.default!r}, or another name"
        raise ConfigError(f"{what}: its option {kebab(option)} {rule}, got {declared.default!r}")


def _is_text(key: Any) -> bool:
    """Return True for a key that can be looked up: Python also has texts that cannot be encoded."""
    return isinstance(key, str) and not re.search(r"[\ud800-\udfff]", key)


def _line(error: Any, model: type[RunConfig]) -> str:
    """Format one of pydantic's errors as one line."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    key = brief(kebab(str(error["loc"][0]))) or "''"
    if error["type"] == "extra_forbidden":
        keys = [kebab(name) for name in model.model_fields]
        if key in keys:
            return f"{key}: must be given once, got {error['loc'][0]}, too"
        known = f"; known: {', '.join(keys)}"
        return f"{key}: unknown key{did_you_mean(key, keys) or known}"
    return f"{key}: must be {rule_in(error['msg'])}, got {quoted(error['input'])}{hint_in(error)}"
