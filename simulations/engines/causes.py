"""What went wrong, as the logs of Flower and Ray tell it."""

import re
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

ERROR = re.compile(r"^(\S+ )?ERROR\b *(: *|\[[\w.]+\] *)?|^(?=[\w.]*(Error|Exception)\b)")  # how an error's line begins
EXIT_CODE = re.compile(r"Exit Code: \d+\n")  # what Flower writes before a reason
EMPTY = re.compile(  # lines that give none
    r"Traceback |For more information|Simulation raised an exception|An unhandled exception occurred|"
    r"(RuntimeError: )?(Simulation Runtime crashed|An error was encountered\. Ending simulation)"
)


def cause(lines: Iterable[str]) -> str:
    """What the last error on a log says that says something, without colours, level and time; "" where none does."""
    text = EXIT_CODE.sub("", "\n".join(line for line in map(plain, lines) if line))
    errors = [ERROR.sub("", line, count=1) for line in text.splitlines() if ERROR.match(line)]
    return next((error for error in reversed(errors) if is_telling(error)), "")


def cause_in(log: Path) -> str:
    """The same of a process's log, or else its last line."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return cause(lines) or plain(lines[-1])


def is_telling(error: str) -> bool:
    """Whether an error gives a reason."""
    return bool(error) and not EMPTY.match(error)


def plain(line: str) -> str:
    """A line without colours."""
    return Text.from_ansi(line).plain.strip()
