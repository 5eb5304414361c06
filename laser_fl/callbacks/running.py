"""The callbacks of a run: built from its config, called, named in errors, and kept in checkpoints."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laser_fl.callbacks.base import Callback
from laser_fl.errors import ConfigError, LaserError, TrainingError, brief, quoted, reason_of
from laser_fl.registry import CALLBACKS
from laser_fl.registry.outside import place_of


def built(config: object) -> list[Callback]:
    """Build the callbacks that a run config chooses by its key ``callbacks``, with their options, in their order."""
    chosen: str = config.callbacks  # type: ignore[attr-defined]
    return [CALLBACKS.build(name, config) for name in CALLBACKS.names_in(chosen)]


def apart(given: str | Sequence[Callback | str]) -> tuple[str, list[Callback]]:
    """Return callbacks given in Python as (value of the key ``callbacks``, objects). Raises ConfigError."""
    several = [given] if isinstance(given, str) else given
    for one in several:
        if not isinstance(one, str | Callback):
            hint = f": write {one.__name__}()" if isinstance(one, type) else ""
            raise ConfigError(f"callbacks: must be names or objects of Callback, got {quoted(one)}{hint}")
    names = [one for one in several if isinstance(one, str)]
    return ",".join(names) or "none", [one for one in several if isinstance(one, Callback)]


def notify(callbacks: Iterable[Callback], method: str, *arguments: object) -> None:
    """Call a method of all callbacks, in their order. Raises TrainingError as `call`."""
    for callback in callbacks:
        call(callback, method, *arguments)


def call(callback: Callback, method: str, *arguments: object) -> Any:
    """Call a method of a callback.

    Args:
        callback: any.
        method: its name.
        *arguments: of the method.

    Raises:
        TrainingError: it raised an error; the message names both. The errors of this project pass as they are.
    """
    try:
        return getattr(callback, method)(*arguments)
    except LaserError:
        raise
    except Exception as error:
        what = f"callback {name_of(callback)}: {method} raised {type(error).__name__}"
        raise TrainingError(f"{what}: {brief(reason_of(error))}") from error


def name_of(callback: Callback) -> str:
    """Return the name under which a callback's class was chosen or registered; else its place, ``module:class``."""
    for name, known in CALLBACKS.outside.items():
        if known is type(callback):
            return name
    place = place_of(type(callback))
    return next((name for name, entry in CALLBACKS.items() if entry.target == place), place)


def states_of(callbacks: Iterable[Callback]) -> dict[str, dict[str, Any]]:
    """Return the states of those callbacks that have one, by name. Raises TrainingError where JSON cannot carry one."""
    states = {name: call(callback, "state_dict") for name, callback in _named(callbacks).items()}
    for name, state in states.items():
        try:
            json.dumps(state)
        except (TypeError, ValueError) as error:
            rule = f"its state_dict must return what JSON can carry ({brief(str(error))})"
            raise TrainingError(f"callback {name}: {rule}") from None
    return {name: state for name, state in states.items() if state}


def restore_states(callbacks: Iterable[Callback], states: Mapping[str, dict[str, Any]]) -> None:
    """Undo `states_of`.

    Raises:
        ConfigError: a callback with a state is not among them.
        TrainingError: a callback cannot load its state.
    """
    named = _named(callbacks)
    if absent := sorted(states.keys() - named.keys()):
        got = ", ".join(named) or "none"
        raise ConfigError(f"callbacks: must have {absent[0]}, as in the run that goes on, got {got}")
    for name, state in states.items():
        call(named[name], "load_state_dict", state)


def _named(callbacks: Iterable[Callback]) -> dict[str, Callback]:
    """Return callbacks by their names, the later ones of a name with a number."""
    named: dict[str, Callback] = {}
    counts: Counter[str] = Counter()
    for callback in callbacks:
        counts[name := name_of(callback)] += 1
        named[f"{name} {counts[name]}" if counts[name] > 1 else name] = callback
    return named
