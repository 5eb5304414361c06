"""Rules of the run config's keys, as types that pydantic checks, and as text for ``laser-fl list``."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from laser_fl.registry import KINDS
from laser_fl.registry.options import OneOf, a_number

SMALLEST, LARGEST = 1e-30, 1e30  # beyond any channel


def part(key: str, *more: str, unlisted: str = "") -> AfterValidator:
    """Return the rule of a key that names a part: of the table of `key`, or one of `more`."""
    return AfterValidator(OneOf(key, more, unlisted))


def power(value: float) -> float:
    """Return a power, in (0, inf]. Raises ValueError for another value."""
    if math.isnan(value) or value <= 0:
        raise ValueError("must be greater than 0 (inf: no noise)")
    if not SMALLEST <= value <= LARGEST and value < math.inf:
        raise ValueError(f"must be between {SMALLEST:g} and {LARGEST:g}, or inf")
    return value


def norm_bound(value: float) -> float:
    """Return a bound in units of the median norm, in [1, inf]. Raises ValueError for another value."""
    if not value >= 1:
        raise ValueError("must be at least 1 (inf: none)")
    return value


def device(name: str) -> str:
    """Return the name of a device. Raises ValueError for another text."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return name


def path(name: str) -> str:
    """Return a path that a file system can take. Raises ValueError for another text."""
    if re.search(r"[\x00-\x1f\x7f]", name):
        raise ValueError("must be a path without control characters")
    if len(name) > 4000 or any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
        raise ValueError("must be a path of a length that file systems take")
    try:
        Path(name).expanduser()
    except RuntimeError:
        raise ValueError("must be a path in a home folder that is known") from None
    return name


def flag(value: object) -> bool:
    """Return a truth value, or that of its text, as Python or TOML writes it. Raises ValueError for another value."""
    if not isinstance(value, bool) and value not in ("true", "false", "True", "False"):
        raise ValueError("must be true or false")
    return value in (True, "true", "True")


Count = Annotated[int, Field(ge=1, lt=2**31)]
CountOrNone = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Power = Annotated[float, AfterValidator(power)]
NormBound = Annotated[float, AfterValidator(norm_bound)]
Device = Annotated[str, AfterValidator(device)]
Flag = Annotated[bool, BeforeValidator(flag)]
PathName = Annotated[str, AfterValidator(path)]
Number = Annotated[float, AfterValidator(a_number)]

TEXTS: Mapping[Any, str] = {
    power: f"a number from {SMALLEST:g} to {LARGEST:g}, or inf",
    norm_bound: "a number from 1, or inf",
    device: "auto, cpu, cuda or cuda:N",
    path: "a path",
    a_number: "a number, -inf or inf",
}
SIGNS = {Gt: ("gt", ">"), Ge: ("ge", ">="), Lt: ("lt", "<"), Le: ("le", "<=")}
NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", NoneType: "nothing"}


def rule_text(kind: Any, notes: tuple[Any, ...]) -> str:
    """Return a rule in words.

    Args:
        kind: the type of the values.
        notes: what pydantic has noted beside it: bounds and validators.
    """
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    for note in notes:
        if isinstance(note, AfterValidator):
            if isinstance(note.func, OneOf):
                several = "; several with commas between" if KINDS[note.func.key].several else ""
                return f"one of {', '.join((*note.func.more, *KINDS[note.func.key]))}, or module:object{several}"
            return TEXTS[note.func]
    bounds = [
        f"{sign} {getattr(note, name):g}"
        for note in notes
        for cls, (name, sign) in SIGNS.items()
        if isinstance(note, cls) and abs(getattr(note, name)) < 2**31 and getattr(note, name) != LARGEST
    ]
    return " ".join([NAMES[kind], " and ".join(bounds)]).strip()


def rule_of(annotation: Any) -> str:
    """Return the rule of an annotated type in words."""
    field = FieldInfo.from_annotation(annotation)
    return rule_text(field.annotation, tuple(field.metadata))
