"""A check of the built pages: none of them asks another host for a script, a style, a font or a picture."""

import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

ASKED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"' >]+)""", re.I)
NOT_ASKED = re.compile(r"""<link\b[^>]*?\brel=["']?(?:canonical|author|license)""", re.I)
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"') ]+)""", re.I)


def setup(app: Any) -> dict[str, Any]:
    """Look at the pages when they are built."""
    app.connect("build-finished", look)
    return {"parallel_read_safe": True}


def look(app: Any, failure: Exception | None) -> None:
    """Warn of each address of another host that a page loads; with -W, a warning is an error."""
    if failure is None and app.builder.format == "html":
        for path in sorted(Path(app.outdir).rglob("*")):
            for address in loaded(path):
                logging.getLogger(__name__).warning(f"{path.relative_to(app.outdir)}: loads {address}")


def loaded(path: Path) -> list[str]:
    """Return the addresses of other hosts that a page or a style sheet loads."""
    if path.suffix == ".html":
        text = NOT_ASKED.sub("", path.read_text(encoding="utf-8"))
        return ASKED.findall(text) + IN_STYLES.findall("".join(re.findall(r"<style.*?</style>", text, re.DOTALL)))
    return IN_STYLES.findall(path.read_text(encoding="utf-8")) if path.suffix == ".css" else []
