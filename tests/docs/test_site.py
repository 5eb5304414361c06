"""The site's sources are whole: links lead somewhere, and the reference has all that users can name."""

import importlib
import re
import sys

import pytest

import laser_fl as lf
from laser_fl.config import RunConfig
from laser_fl.config.run_config import kebab
from laser_fl.errors import ConfigError
from laser_fl.registry import KINDS
from tests.docs.pages import PAGES, ROOT
from tests.docs.test_code_blocks import COMMANDS

DOCS = ROOT / "docs"
REFERENCE = "".join(path.read_text() for path in (DOCS / "reference" / "api").glob("*.md"))
LINK = re.compile(r"\]\(([^()\s]+)\)")


@pytest.fixture(scope="module")
def extension():
    """Return the site's own extensions by their names."""
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module
    sys.path.remove(str(DOCS / "_ext"))


def slugs(path):
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_and_headings_that_are_there(page):
    path, lost = ROOT / page, []
    for link in LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        place, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (heading and target.suffix == ".md" and heading not in slugs(target)):
            lost.append(link)
    assert lost == []


def test_the_reference_has_every_public_name():
    import clients
    import strategies
    from laser_fl import callbacks, testing

    places = {"laser_fl": lf, "strategies": strategies, "clients": clients}
    places |= {"laser_fl.callbacks": callbacks, "laser_fl.testing": testing}
    names = {f"{module}.{name}" for module, place in places.items() for name in place.__all__}
    assert {name for name in names if not re.search(rf"{name}\b", REFERENCE)} == {"laser_fl.callbacks.built"}


def test_the_tables_have_every_key_part_and_command_once(extension):
    generated = extension("generated")
    keys = "\n".join(generated.config_keys())
    assert all(keys.count(f"| `{kebab(key)}`{{") == 1 for key in RunConfig.model_fields)
    parts = "\n".join(generated.parts())
    assert [name for table in KINDS.values() for name in table if f"| `{name}` |" not in parts] == []
    commands = "\n".join(generated.command_line())
    assert all(f"## laser-fl {name}\n" in commands for name in COMMANDS)


def test_angle_brackets_in_tables_are_no_tags(extension):
    assert extension("generated").row(["as <unk>; `<a>`", "b|c"]) == r"| as \<unk\>; `<a>` | b\|c |"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Send `x_i` and s_i * 2.", r"Send ``x_i`` and s_i \* 2."),
        ("Scale by x_ or |x|.", r"Scale by x\_ or \|x\|."),
        ("Show it:\n\n    y = x*", "Show it:\n\n::\n\n   y = x*"),
        (
            "Do it.\n\nArgs:\n    one: the first,\n        long.\n    two: b.",
            "Do it.\n\n:param one: the first, long.\n:param two: b.",
        ),
        ("Do.\n\nRaises:\n    ConfigError: bad.", "Do.\n\n:raises ~laser_fl.errors.ConfigError: bad."),
        ("A.\n\nExample:\n    >>> 1\n    1", "A.\n\n.. rubric:: Example\n\n.. code-block:: pycon\n\n   >>> 1\n   1"),
        (
            "A.\n\none: the first. two, three: the\n    others.",
            "A.\n\n* ``one``: the first.\n* ``two``, ``three``: the others.",
        ),
    ],
)
def test_docstrings_become_text_that_means_the_same(extension, text, expected):
    assert "\n".join(extension("docstrings").converted(text, ["one", "two", "three"])).strip() == expected


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        ('<script src="https://cdn.org/a.js"></script>', ["https://cdn.org/a.js"]),
        ('<img alt="x" src="//cdn.org/a.png">', ["//cdn.org/a.png"]),
        ("<style>@import 'https://fonts.org/a.css'</style>", ["https://fonts.org/a.css"]),
        ('<a href="https://flower.ai">x</a> <link rel="canonical" href="https://here.org/"> <script src="a.js">', []),
    ],
)
def test_a_page_that_asks_another_host_is_found(extension, tmp_path, page, asked):
    (path := tmp_path / "page.html").write_text(page)
    assert extension("offline").loaded(path) == asked


MESSAGES = {
    "powr: unknown key, did you mean power?": {"powr": 1},
    "rank: must be greater than 0 for strategy laser, got 0": {"rank": 0},
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_on_the_page_of_errors_are_those_of_the_program(message):
    from laser_fl.config import parse

    assert f"`{message}`" in (DOCS / "reference" / "errors.md").read_text()
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(MESSAGES[message])
