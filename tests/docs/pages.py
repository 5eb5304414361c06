"""The pages of the documentation, as tests see them: blocks of code, with the comments that say how to run them.

In a page, before a block of Python:

    <!-- setup
    from tests.docs.given import model     runs first, in the page's namespace, and is not shown
    -->
    <!-- not run: needs a GPU -->          the reason why tests leave the block alone
    <!-- slow: imports torchmetrics -->    the reason why the page runs in .ci/run only
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if not {"_build", "generated"} & set(path.relative_to(ROOT).parts)
}
SETUP = re.compile(r"<!--\s*setup\s+(.*?)-->", re.DOTALL)
NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->", re.DOTALL)
SLOW = re.compile(r"<!--\s*slow:\s*.+?-->")


@dataclass(frozen=True)
class Block:
    """A fenced block. setup: code that runs before it. not_run: the reason why it is not run; empty: it is."""

    page: str
    line: int
    language: str
    text: str
    setup: str = ""
    not_run: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    comments = ""
    for token in MarkdownIt("commonmark").parse(PAGES[page].read_text()):
        if token.type == "html_block":
            comments += token.content
        elif token.type == "fence":
            setup = "\n".join(SETUP.findall(comments))
            reason = " ".join(" ".join(NOT_RUN.findall(comments)).split())
            language = token.info.partition(" ")[0]
            yield Block(page, token.map[0] + 1, language, token.content, setup, reason)
            comments = ""


def commands_in(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command in a block: of a shell's lines, or of those behind a prompt."""
    text = block.text.replace("\\\n", " ")
    if block.language != "bash":
        text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
    yield from separate(text)


def separate(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell's text, without comments and settings of the environment."""
    for line in joined(text):
        words: list[str] = []
        scanner = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        scanner.whitespace_split = True
        for word in scanner:
            if word and set(word) <= set("&|;"):
                yield words
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)
        if words:
            yield words


def joined(text: str) -> Iterator[str]:
    """Yield lines, each with those that follow until its quotation marks are closed."""
    gathered = ""
    for line in text.splitlines():
        gathered += line + "\n"
        try:
            shlex.split(gathered, comments=True)
        except ValueError:
            continue
        yield gathered
        gathered = ""
