"""Keys of a run that come as keyword arguments, beside parts that are given as objects."""

from collections.abc import Collection, Mapping
from typing import Any

from laser_fl.config.run_config import RunConfig, kebab
from laser_fl.errors import ConfigError


def only(
    options: Mapping[str, Any], allowed: Collection[str], whose: str, *choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options and choices as keys of one run config, for `parse`.

    Args:
        options: the keyword arguments, in snake_case.
        allowed: the keys that have an effect.
        whose: the function or class that takes the options, for messages.
        *choices: the keys of parts, as `Table.choice` returns them.

    Raises:
        ConfigError: an option is a key of other runs, or is given by a part, too.
    """
    known = {kebab(name) for name in RunConfig.model_fields}
    given = {key: value for choice in choices for key, value in choice.items()}
    for name, value in options.items():
        key = kebab(name)
        if name not in allowed and key in known:
            raise ConfigError(f"{name}: is no option of {whose}; those are {', '.join(sorted(allowed))}")
        if key in given:
            raise ConfigError(f"{key}: must be given once, got {value!r} beside {given[key]!r} of its part")
        given[key] = value
    return given
