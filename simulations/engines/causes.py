"""Causes of failures, read from the logs of Flower and Ray."""

import re
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text

ERROR = re.compile(r"^(\S+ )?ERROR\b *(: *|\[[\w.]+\] *)?|^(?=[\w.]*(Error|Exception)\b)")  # begins an error's line
EXIT_CODE = re.compile(r"Exit Code: \d+\n")  # Flower writes it before a reason
EMPTY = re.compile(  # lines without a reason
    r"Traceback |For more information|Simulation raised an exception|An unhandled exception occurred|"
    r"(RuntimeError: )?(Simulation Runtime crashed|An error was encountered\. Ending simulation)"
)


def cause(lines: Iterable[str]) -> str:
    """Return the last error of a log that gives a reason, without colours, level and time; "" where none does."""
    text = EXIT_CODE.sub("", "\n".join(line for line in map(plain, lines) if line))
    errors = [ERROR.sub("", line, count=1) for line in text.splitlines() if ERROR.match(line)]
    return next((error for error in reversed(errors) if gives_reason(error)), "")


def cause_in(log: Path) -> str:
    """Return the cause in a process's log, or else its last line."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["its log is empty"]
    return cause(lines) or plain(lines[-1])


def gives_reason(error: str) -> bool:
    """Return True for an error that gives a reason."""
    return bool(error) and not EMPTY.match(error)


def plain(line: str) -> str:
    """Return a line without colours."""
    return Text.from_ansi(line).plain.strip()
