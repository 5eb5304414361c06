"""Docstrings as reStructuredText.

They are written in plain English with sections (Args, Returns, Raises, Example) and indented formulas. Characters that
reStructuredText would take for markup stand for themselves; what is in backquotes is code.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

from laser_fl import Channel, Scheme, errors
from laser_fl.callbacks import Callback
from laser_fl.config.rules import rule_of
from laser_fl.registry import options_of

PARTS = (Scheme, Channel, Callback)
SECTION = re.compile(r"(Args|Returns|Yields|Raises|Example|Examples):$")
ENTRY = re.compile(r"(\*{0,2}\w+): +(.*)", re.DOTALL)
FIELDS = re.compile(r"([a-z_]+)(, [a-z_]+)*: ")
MARKUP = re.compile(r"([\\*|<>]|(?<=\w)_(?!\w)|(?<!\w)_(?=\w)|__)")


def setup(app: Any) -> dict[str, Any]:
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}


def process(app: Any, kind: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring in place, as autodoc wants it."""
    fields = list(getattr(item, "__dataclass_fields__", {})) if kind == "class" and is_dataclass(item) else []
    text = "\n".join(lines).strip()
    lines[:] = list(converted(text, fields))
    if kind == "class" and issubclass(item, PARTS) and text == (inspect.getdoc(item) or "").strip():
        lines += options_list(item)


def options_list(part: type) -> Iterator[str]:
    """Yield a list of the options that a part declares, with their rules."""
    for name, declared in options_of(part).items():
        yield f"* ``{name}``: {inline(declared.option.description)} ({inline(rule_of(declared.annotation))})."
    yield ""


def converted(text: str, fields: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring in reStructuredText.

    Args:
        text: as `inspect.cleandoc` leaves it.
        fields: names of a dataclass's fields, which the docstring may describe as ``name: text.``
    """
    for block in blocks(text):
        first, _, rest = block.partition("\n")
        if SECTION.match(first):
            yield from SECTIONS[first.rstrip(":")](textwrap.dedent(rest))
        elif block.startswith(">>>"):
            yield from example(block)
        elif block.startswith(" "):
            yield from literal(block)
        elif (found := FIELDS.match(block)) and found[1] in fields:
            yield from described(block, fields)
        else:
            yield from (inline(line) for line in block.splitlines())
        yield ""


def blocks(text: str) -> Iterator[str]:
    """Yield paragraphs, indented blocks and whole sections."""
    gathered: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        within = gathered and (SECTION.match(gathered[0].partition("\n")[0]) or gathered[0].startswith(" "))
        if gathered and not (paragraph.startswith(" ") and within):
            yield "\n\n".join(gathered)
            gathered = []
        gathered += divided(paragraph)
        if len(gathered) > 1 and not gathered[0].startswith(" ") and not SECTION.match(gathered[0].partition("\n")[0]):
            yield gathered.pop(0)
    yield "\n\n".join(gathered)


def divided(paragraph: str) -> list[str]:
    """Return a paragraph; or a heading, and the indented lines that follow without an empty one between."""
    first, newline, rest = paragraph.partition("\n")
    heading = newline and rest.startswith("    ") and not first.startswith(" ") and not SECTION.match(first)
    return [first, rest] if heading and not FIELDS.match(first) and not first.startswith("-") else [paragraph]


def inline(text: str) -> str:
    """Return a line of text in which backquotes alone are markup."""
    pieces = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(f"``{piece.strip('`')}``" if i % 2 else MARKUP.sub(r"\\\1", piece) for i, piece in enumerate(pieces))


def literal(block: str) -> Iterator[str]:
    """Yield a block as it is written: a formula, a table, a command."""
    yield from ("::", "", *textwrap.indent(textwrap.dedent(block), "   ").splitlines())


def example(text: str) -> Iterator[str]:
    """Yield an example as a session in Python."""
    yield from (".. code-block:: pycon", "", *textwrap.indent(text.strip("\n"), "   ").splitlines())


def described(block: str, fields: list[str]) -> Iterator[str]:
    """Yield a list of a dataclass's fields, of which several may be in a line."""
    names = "|".join(map(re.escape, fields))
    joined = " ".join(block.split())
    for entry in re.split(rf"(?:(?<=\.)|^) ?(?=(?:(?:{names})(?:, | and )?)+: )", joined):
        if entry:
            name, _, text = entry.partition(": ")
            codes = ", ".join(f"``{one}``" for one in re.split(", | and ", name))
            yield f"* {codes}: {inline(text)}"


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, description) of a section's entries, whose further lines are indented."""
    for entry in re.split(r"\n(?! )", text.strip("\n")):
        found = ENTRY.match(" ".join(entry.split()))
        yield (found[1], found[2]) if found else ("", " ".join(entry.split()))


def arguments(text: str) -> Iterator[str]:
    """Yield the fields of arguments."""
    for name, about in entries(text):
        yield f":param {name.lstrip('*')}: {inline(about)}"


def raised(text: str) -> Iterator[str]:
    """Yield the fields of errors."""
    for name, about in entries(text):
        place = f"~laser_fl.errors.{name}" if hasattr(errors, name) else name
        yield f":raises {place}: {inline(about)}"


def returned(text: str) -> Iterator[str]:
    """Yield the field of the returned value."""
    yield f":returns: {inline(' '.join(text.split()))}"


def shown(text: str) -> Iterator[str]:
    """Yield an example with its heading."""
    yield from (".. rubric:: Example", "", *example(textwrap.dedent(text)))


SECTIONS: dict[str, Callable[[str], Iterator[str]]] = {
    "Args": arguments,
    "Returns": returned,
    "Yields": returned,
    "Raises": raised,
    "Example": shown,
    "Examples": shown,
}
