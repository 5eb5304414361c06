"""The notebooks run from top to bottom as plain Python, and every picture has a text in its place."""

import re
from pathlib import Path

import pytest

from tests.parts import visiting

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted(path for path in (DOCS / "notebooks").glob("*.md") if path.stem != "index")
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?:---\n(?P<options>.*?)---\n)?(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
PAGES = sorted(path for place in ("start", "concepts") for path in (DOCS / place).glob("*.md"))
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<place>[^)]+)\)")


def cells(path):
    """Return the code cells of a notebook, without their options and Jupyter's own commands."""
    return [re.sub(r"^%.*\n", "", match["code"], flags=re.MULTILINE) for match in CELL.finditer(path.read_text())]


def run(path):
    """Run all cells in one namespace."""
    names = {"__name__": path.stem}
    for number, code in enumerate(cells(path), start=1):
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)
    return names


def test_there_are_five_notebooks_and_the_index_leads_to_them():
    index = (DOCS / "notebooks" / "index.md").read_text()
    assert len(NOTEBOOKS) == 5
    assert all(f"\n{path.stem}\n" in index for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_text_without_outputs_and_every_cell_is_found(path):
    text = path.read_text()
    assert "format_name: myst" in text
    assert "output" not in text.partition("\n# ")[0]
    assert len(cells(path)) == text.count("```{code-cell}") > 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_picture_of_a_notebook_has_a_text_in_its_place(path):
    drawing = [
        match for match in CELL.finditer(path.read_text()) if "plot()" in match["code"] or "Figure(" in match["code"]
    ]
    assert [match["code"] for match in drawing if "alt: " not in (match["options"] or "")] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_picture_of_a_page_is_there_and_has_a_text_in_its_place(path):
    for picture in PICTURE.finditer(path.read_text()):
        assert (path.parent / picture["place"]).is_file()
        assert len(picture["text"].split()) > 5


@pytest.mark.parametrize(
    "path",  # a comparison of several strategies takes longer than a test should
    [
        pytest.param(path, marks=[pytest.mark.thorough, pytest.mark.product] * ("compare(" in path.read_text()))
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs_from_top_to_bottom(path):
    with visiting(path.parent):
        run(path)
