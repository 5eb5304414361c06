"""Options of parts: each is declared once, in the part that has it, and is a key of the run config.

A dataclass declares them as fields; a function, or a class that is no dataclass, as keyword parameters:

    keep: float = option(0.01, "share of the values that is sent", gt=0, le=1)

    def dirichlet(labels, config, dirichlet_alpha: Annotated[float, Option("concentration", gt=0)] = 0.5): ...
"""

import dataclasses
import inspect
import math
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from laser_fl.errors import ConfigError, did_you_mean, quoted

METADATA = "laser_fl.option"
TYPES = (int, float, str)
_KNOWN: "WeakKeyDictionary[Any, Mapping[str, Declared]]" = WeakKeyDictionary()  # a builder may hold somebody's model


@dataclass(frozen=True)
class Option:
    """The description of an option, and the rule for its values.

    gt, ge, lt, le: bounds of a number. infinite: True where a number may be inf or -inf; it is never NaN.
    part: the key whose table of parts has the names that are allowed, as ``recovery``.
    """

    description: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    infinite: bool = False
    part: str = ""


class UnknownNameError(ValueError):
    """A name is not among the known ones. hint: the end of the message, on the known one that is most like it."""

    def __init__(self, rule: str, hint: str) -> None:
        super().__init__(rule)
        self.hint = hint


@dataclass(frozen=True)
class OneOf:
    """The rule that a value is the name of a part of a kind, or one of `more`; several where the kind allows it.

    key: of the parts' table. unlisted: a name that programs use, and no user.
    """

    key: str
    more: tuple[str, ...] = ()
    unlisted: str = ""

    def __call__(self, value: str) -> str:
        """Return a value that is allowed, without spaces between names. Raises ValueError for another one."""
        from laser_fl.registry import KINDS

        table = KINDS[self.key]
        names = table.names_in(value)
        for name in names:
            if name not in (*self.more, self.unlisted or None) and not table.find(name):
                several = ", or several with commas between" if table.several else ""
                known = (*self.more, *table)
                hint = did_you_mean(name, (*known, *table.outside))
                raise UnknownNameError(f"must be one of {', '.join(known)}{several}", hint)
        if len(set(names)) < len(names):
            raise ValueError("must be names that differ")
        return ",".join(names)


@dataclass(frozen=True)
class Declared:
    """An option as a part declares it: with its type and its default."""

    type: Any
    default: Any
    option: Option

    @property
    def annotation(self) -> Any:
        """The type with its rule, as pydantic takes it."""
        from pydantic import AfterValidator, Field

        bounds = {name: getattr(self.option, name) for name in ("gt", "ge", "lt", "le")}
        rules: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
        if self.option.part:
            return Annotated[str, AfterValidator(OneOf(self.option.part))]
        if self.type is not float:
            return Annotated[self.type, Field(**rules)] if rules else self.type
        if self.option.infinite:
            return Annotated[float, Field(**rules), AfterValidator(a_number)]
        return Annotated[float, Field(allow_inf_nan=False, **rules)]


def option(
    default: Any,
    description: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    infinite: bool = False,
    part: str = "",
) -> Any:
    """Declare a field of a part's dataclass as an option, which is a key of the run config where the part is chosen.

    Args:
        default: the value of a run that does not set the key.
        description: in a few words, for ``laser-fl list``.
        gt: the value must be greater.
        ge: the value must be greater, or equal.
        lt: the value must be less.
        le: the value must be less, or equal.
        infinite: True where a number may be inf or -inf.
        part: the key whose table of parts has the names that are allowed.

    Example:
        >>> @dataclass(frozen=True)
        ... class Part:
        ...     keep: float = option(0.01, "share of the values that is sent", gt=0, le=1)
        >>> Part().keep
        0.01
    """
    declared = Option(description, gt, ge, lt, le, infinite, part)
    return dataclasses.field(default=default, metadata={METADATA: declared})


def options_of(part: Any) -> Mapping[str, Declared]:
    """Return the options that a part declares, by name. Raises ConfigError for one of a type that no key has."""
    try:
        return _KNOWN[part]
    except (KeyError, TypeError):  # a part that cannot be a key is looked at each time
        found = _declared(part)
    with suppress(TypeError):
        _KNOWN[part] = found
    return found


def _declared(part: Any) -> Mapping[str, Declared]:
    if dataclasses.is_dataclass(part):
        found = _of_dataclass(part)
    else:
        found = _of_function(part.__init__ if isinstance(part, type) else part)  # type: ignore[misc]
    for name, declared in found.items():
        if declared.type not in TYPES and get_origin(declared.type) is not Literal:
            rule = "must be of type int, float, str or Literal"
            raise ConfigError(f"{_key(name)}: an option {rule}, got {quoted(declared.type)}")
    return types.MappingProxyType(found)


def take_options(part: Any, source: object) -> dict[str, Any]:
    """Return the values of a part's options, which are the attributes of `source` with their names."""
    return {name: getattr(source, name) for name in options_of(part)}


def check_options(part: object) -> None:
    """Refuse options outside of their rules; for the parts that somebody makes in Python.

    Raises:
        ConfigError: a value is wrong; the line has the key, the rule and the value.
    """
    cls: Any = type(part)
    for name in options_of(cls):
        _check(cls, name, getattr(part, name))


def check_defaults(part: Any) -> None:
    """Refuse a part with a default outside of its rule. Raises ConfigError."""
    for name, declared in options_of(part).items():
        _check(part, name, declared.default)


def rule_in(message: str) -> str:
    """Return the rule in one of pydantic's messages: "greater than 0" in "Input should be greater than 0"."""
    for opening in ("Value error, ", "Input should be ", "must be ", "Unable to parse input string as "):
        message = message.removeprefix(opening)
    return message.partition(", unable to parse")[0]


def hint_in(error: Any) -> str:
    """Return the end of a message on one of pydantic's errors: the name that may have been meant, or nothing."""
    if error["type"] == "literal_error":
        return did_you_mean(error["input"], re.findall("'([^']*)'", error["ctx"]["expected"]))
    cause = error.get("ctx", {}).get("error")
    return cause.hint if isinstance(cause, UnknownNameError) else ""


def a_number(value: float) -> float:
    """Return a value that is a number, or infinite. Raises ValueError for NaN."""
    if math.isnan(value):
        raise ValueError("must be a number, -inf or inf")
    return value


def _check(part: Any, name: str, value: Any) -> None:
    from pydantic import ValidationError

    try:
        _adapter(options_of(part)[name]).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        line = f"{_key(name)}: must be {rule_in(first['msg'])}, got {quoted(value)}{hint_in(first)}"
        raise ConfigError(line) from None


@cache
def _adapter(declared: Declared) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(declared.annotation)


def _of_dataclass(part: Any) -> dict[str, Declared]:
    try:
        hints = get_type_hints(part)
    except NameError as error:
        raise ConfigError(f"{part.__qualname__}: its annotations must be defined ({error})") from None
    fields = {field.name: field for field in dataclasses.fields(part) if METADATA in field.metadata}
    return {
        name: Declared(hints[name], _default(field.default, hints[name]), field.metadata[METADATA])
        for name, field in fields.items()
    }


def _of_function(part: Any) -> dict[str, Declared]:
    if not inspect.isfunction(part):
        return {}
    parameters = inspect.signature(part).parameters
    try:
        hints = get_type_hints(part, include_extras=True)
    except NameError as error:  # of an annotation for type checkers only
        if not any("Option" in str(one.annotation) for one in parameters.values()):
            return {}
        raise ConfigError(f"{part.__qualname__}: its annotations must be defined ({error})") from None
    found = {}
    for name, hint in hints.items():
        if get_origin(hint) is Annotated:
            kind, *notes = get_args(hint)
            for note in notes:
                if isinstance(note, Option):
                    found[name] = Declared(kind, _default(parameters[name].default, kind), note)
    return found


def _default(value: Any, kind: Any) -> Any:
    """Return a default in its type, so that files write it as any other value of the key."""
    return float(value) if kind is float and isinstance(value, int) else value


def _key(name: str) -> str:
    return name.replace("_", "-")
