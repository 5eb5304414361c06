"""Output on terminals and logs that cannot show every character: no command fails because of one."""

import codecs
import io
import sys
import unicodedata

NAME = "laser-fl-readable"
WORDS = {
    "λ": "lambda", "σ": "sigma", "θ": "theta", "γ": "gamma", "√": "sqrt", "∞": "inf", "²": "^2", "‖": "||", "±": "+-",
    "×": "x", "·": "*", "≤": "<=", "≥": ">=", "→": "->", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"',
    "─": "-", "━": "-", "│": "|", "┃": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "✅": "ok", "❌": "failed",
}  # fmt: skip


def print_readably() -> None:
    """Let standard output and standard error write a readable substitute where their encoding lacks a character."""
    codecs.register_error(NAME, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAME)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Handle a codec's error: return words, letters without their accents, or else an escape, and the next position."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    try:  # bytes of a file's name that are no text in this locale
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        text = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(map(_readable, text)), error.end


def _readable(character: str) -> str:
    if character in WORDS:
        return WORDS[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore")
    return (plain or character.encode("ascii", "backslashreplace")).decode("ascii")
