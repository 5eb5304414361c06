"""Parts from outside the package: their modules are imported, and their shape is checked."""

import dataclasses
import inspect
import sys
from collections.abc import Collection
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from laser_fl.errors import ConfigError, brief, reason_of

GROUP = "laser_fl.plugins"  # entry points of installed packages; importing one registers its parts


def imported(name: str, key: str) -> Any:
    """Import the object behind ``module:object``, which may lie in the current folder.

    Args:
        name: of the part.
        key: of the run config, for messages.

    Raises:
        ConfigError: there is no such module or object, or importing it fails.
    """
    module, _, place = name.partition(":")
    try:
        found = import_here(module)
    except ModuleNotFoundError as error:
        where = "here or among the installed packages"
        lacks = f"there is no module {module} {where}" if error.name == module else reason_of(error)
        raise ConfigError(f"{key}: {brief(name)} cannot be imported: {lacks}") from None
    except Exception as error:
        reason = reason_of(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {reason_of(error)}"
        raise ConfigError(f"{key}: {brief(name)} cannot be imported: {brief(reason)}") from error
    try:
        for part in place.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"{key}: the module {module} has no {place or 'object of an empty name'}") from None
    return found


@cache
def load_plugins() -> None:
    """Import the plug-ins of installed packages, which register their parts. Raises ConfigError where one fails."""
    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()
        except Exception as error:
            package = plugin.dist.name if plugin.dist else "?"
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise ConfigError(f"plug-in {plugin.name} of {package}: cannot be loaded: {brief(reason)}") from error


def refuse_misfit(part: Any, what: str, base: str, takes: tuple[str, ...] | None) -> None:
    """Refuse a part that is not of its kind.

    Args:
        part: a class or a function.
        what: the part, for messages.
        base: ``module:class``, of which it must be a subclass; "": none.
        takes: the arguments with which it is called; None: it is a class.

    Raises:
        ConfigError: its class has another base, lacks a method, or has one that takes other arguments.
    """
    if base:
        _refuse_class(part, what, resolve_name(base))
    elif not callable(part):
        raise ConfigError(f"{what} must be a function, got {type(part).__name__}")
    elif takes is not None and not isinstance(part, type) and not _accepts(part, len(takes)):
        raise ConfigError(f"{what} must take ({', '.join(takes)}), takes {_shape(part)}")
    elif takes and isinstance(part, type) and not _accepts(part.__call__, 1 + len(takes)):
        raise ConfigError(f"{what} must be callable with ({', '.join(takes)}), takes {_shape(part.__call__)}")


def refuse_other_arguments(part: type, what: str, options: Collection[str]) -> None:
    """Refuse a class that is not made of its options alone, since a run makes it from the config.

    Args:
        part: the class.
        what: the part, for messages.
        options: the names of those that it declares.

    Raises:
        ConfigError: it is no dataclass where it declares one, or takes another argument.
    """
    if loose := [name for name, value in vars(part).items() if isinstance(value, dataclasses.Field)]:
        raise ConfigError(f"{what} must be a dataclass, since it declares the option {loose[0]}")
    _, *arguments = inspect.signature(part.__init__).parameters  # type: ignore[misc]
    others = [name for name in arguments if name not in options]
    if others and part.__init__ is not object.__init__:  # type: ignore[misc]
        raise ConfigError(f"{what}: its argument {others[0]} must be an option, declared by laser_fl.option")


def place_of(part: Any) -> str:
    """Return ``module:object`` of a part."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"


def import_here(module: str) -> Any:
    """Import a module, which may lie in the current folder."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return import_module(module)


def _refuse_class(part: Any, what: str, base: type) -> None:
    if not (isinstance(part, type) and issubclass(part, base)):
        got = part.__name__ if isinstance(part, type) else type(part).__name__
        raise ConfigError(f"{what} must be a subclass of {base.__module__}:{base.__qualname__}, got {got}")
    if missing := sorted(getattr(part, "__abstractmethods__", ())):
        raise ConfigError(f"{what} must define {', '.join(missing)}")
    for name, own in vars(part).items():
        general = getattr(base, name, None)
        if inspect.isfunction(own) and inspect.isfunction(general) and not name.startswith("__"):
            wanted = list(inspect.signature(general).parameters.values())
            required = [p for p in wanted if p.default is p.empty]
            if not (_accepts(own, len(required)) and _accepts(own, len(wanted))):
                raise ConfigError(f"{what}: its {name} must take {_shape(general)}, takes {_shape(own)}")


def _accepts(function: Any, count: int) -> bool:
    """Return True for a function that can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    return True


def _shape(function: Any) -> str:
    return f"({', '.join(inspect.signature(function).parameters)})"
