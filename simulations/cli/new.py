"""The command that begins a Flower app of one's own."""

import re
import shlex
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from laser_fl.errors import ConfigError, quoted, reason_of
from simulations.cli.common import one_line_errors, print_line

TEMPLATE = files("simulations") / "template"
FILES = ("task.py", "server_app.py", "client_app.py", "pyproject.toml", "README.md")
PLACEHOLDER = "own-app"  # the name of the app that the template is
NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")
MOST = 32  # characters of a name that Flower takes
COMMANDS = (
    "python task.py",
    "laser-fl run -c task=task:load",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 flwr run . --stream",
)


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty; its name becomes the app's.")],
) -> None:
    """Write a Flower app with a model and data of its own, which runs as it is."""
    with one_line_errors():
        for file in write(folder):
            print_line(file)
        print_line("next:", "bold")
        for command in (f"cd {shlex.quote(str(folder))}", *COMMANDS):
            print_line(f"  {command}")


def write(folder: Path) -> list[Path]:
    """Write all files of an app, or none.

    Args:
        folder: new or empty; created with the folders around it.

    Returns:
        The files.

    Raises:
        ConfigError: the folder is used, or is none, or its name can be no app's.
    """
    name = app_name(folder)
    _refuse_used(folder)
    texts = {file: (TEMPLATE / file).read_text(encoding="utf-8").replace(PLACEHOLDER, name) for file in FILES}
    created, written = [path for path in (folder, *folder.parents) if not path.exists()], list[Path]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            with (folder / file).open("x", encoding="utf-8") as opened:
                written.append(folder / file)
                opened.write(text)
    except BaseException:
        with suppress(OSError):
            for path in written:
                path.unlink()
            for path in created:
                path.rmdir()
        raise
    return written


def app_name(folder: Path) -> str:
    """Return the name of a folder's app, in the form in which packages are compared: lower case, with hyphens.

    Raises:
        ConfigError: Flower or a package index would refuse it.
    """
    name = folder.resolve().name
    if not NAME.fullmatch(name) or len(name) > MOST:
        rule = f"a letter first, then letters, digits, '-', '_' and '.', a letter or digit last, at most {MOST}"
        raise ConfigError(f"DIR: its name must be an app's ({rule}), got {quoted(name)}")
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_used(folder: Path) -> None:
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"DIR: must be a new or empty folder, got {quoted(str(folder))}")
    except OSError as error:
        raise ConfigError(f"DIR: must be a folder ({reason_of(error)}), got {quoted(str(folder))}") from None
