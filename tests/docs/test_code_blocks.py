"""Every block of code in README and on the site's pages is run, or parsed as the program parses it."""

import shutil
import sys
import tomllib
import types
from functools import wraps

import pytest
import torch.distributed as dist
import typer
from flwr.common.config import parse_config_args

import laser_fl as lf
from laser_fl import experiment
from laser_fl.config import parse, parse_all
from laser_fl.registry import MODELS, SCHEMES
from simulations.benchmarks import BENCHMARKS
from simulations.catalogue import found
from simulations.cli import app
from simulations.cli.common import values_of
from simulations.figures import FIGURES
from simulations.sweep import read_grid, runs_of
from tests.docs.pages import PAGES, ROOT, SLOW, Block, blocks_of, commands_in
from tests.parts import visiting

ROUNDS = 2
COMMANDS = typer.main.get_command(app).commands
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SLOW_MARKS = [pytest.mark.thorough, pytest.mark.pages]


def with_blocks_of(*languages):
    """Return the pages that have such blocks; those that say that they are slow are left to .ci/run."""
    pages = sorted({block.page for block in BLOCKS if block.language in languages})
    slow = {page for page in pages if SLOW.search(PAGES[page].read_text())}
    return [pytest.param(page, marks=SLOW_MARKS if page in slow else []) for page in pages]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Stand in a folder with the examples and a new app's files; nothing that is imported there stays behind."""
    shutil.copytree(ROOT / "examples", tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "simulations" / "template" / "task.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with visiting(tmp_path):
        yield tmp_path
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def _short(monkeypatch):
    """Let `train` and `compare` take two rounds, whatever a page gives them."""
    for name in ("train", "compare"):
        shortened = short(getattr(experiment, name))
        monkeypatch.setattr(experiment, name, shortened)
        monkeypatch.setitem(vars(lf), name, shortened)


def short(function):
    @wraps(function)
    def shortened(*arguments, **options):
        options.pop("epochs", None)
        return function(*arguments, **{**options, "rounds": min(options.get("rounds", ROUNDS), ROUNDS)})

    return shortened


@pytest.mark.parametrize("page", with_blocks_of("python"))
@pytest.mark.usefixtures("_short")
def test_the_python_of_a_page_runs_from_top_to_bottom(page, place, monkeypatch):
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks_of(page):
        if block.language != "python":
            continue
        for code, what in ((block.setup, "setup before "), (block.text, "")):
            compiled = compile(code, f"{what}{block}", "exec")
            if what or not block.not_run:
                exec(compiled, vars(module))
        keep(block, place)


def keep(block, place):
    """Write a block whose first line is the name of a file into that file, for the commands after it."""
    first = block.text.partition("\n")[0].removeprefix("# ")
    if first.endswith(".py") and first.isascii() and " " not in first:
        (place / first).write_text(block.text)


@pytest.mark.parametrize("page", with_blocks_of("bash", "console"))
def test_the_commands_of_a_page_are_ones_that_the_program_takes(page, place):
    refused = []
    for block in blocks_of(page):
        if block.language == "toml":
            (place / "grid.toml").write_text(block.text)
        if block.language == "python":
            keep(block, place)
        if block.language not in ("bash", "console") or block.not_run:
            continue
        for words in commands_in(block):
            try:
                check(words, place)
            except Exception as error:
                if block.language == "bash" or str(error) not in block.text:  # a page may show how one is refused
                    refused.append(f"{block}: {' '.join(words)}: {error}")
    assert refused == []


def check(words, place):
    """Parse a command of laser-fl or flwr with its keys; of others, look for the script that they run."""
    if words[:1] == ["laser-fl"] and len(words) > 1:
        check_laser(words[1], words[2:])
    elif words[:2] == ["flwr", "run"] and "--run-config" in words:
        keys = parse_config_args([words[words.index("--run-config") + 1]])
        parse({key: value for key, value in keys.items() if key != "resume"})
    elif words[:1] in (["python"], ["torchrun"]) and words[-1].endswith(".py"):
        assert (place / words[-1]).exists(), f"there is no {words[-1]}"


def check_laser(name, arguments):
    """Parse a command as the program does, and its config with it, without running it."""
    assert name in COMMANDS, f"there is no command {name}"
    options = COMMANDS[name].make_context(name, list(arguments), help_option_names=[]).params
    if not options.get("resume"):
        values = values_of(options.get("preset"), options.get("config"), None)
        names = (options.get("strategies") or "").split(",") if name == "compare" else [""]
        parse_all([values | ({"strategy": strategy} if strategy else {}) for strategy in names])
    if (which := NAMES.get(name)) and not placeholder(options["name"]):
        which(options["name"])
    if name in ("volume", "theory"):
        assert options["model"] in MODELS


def placeholder(name):
    """Return True for a name that stands for any: NAME, $name."""
    return name is None or name.isupper() or name.startswith("$")


def one_of(names):
    def check(name):
        assert name in names, f"{name}: there is none of this name"

    return check


def listed(name):
    assert found(name), f"list {name}: shows nothing"


NAMES = {"bench": one_of(BENCHMARKS), "reproduce": one_of(FIGURES), "list": listed}


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_toml_is_toml_and_grids_are_grids(block, tmp_path):
    (path := tmp_path / "grid.toml").write_text(block.text)
    if "grid" in tomllib.loads(block.text):
        assert runs_of([read_grid(path)], tmp_path)


def test_blocks_that_are_not_run_say_why():
    reasons = {str(block): block.not_run for block in BLOCKS if block.not_run}
    print(f"{len(reasons)} of {len(BLOCKS)} blocks are not run:", *reasons.items(), sep="\n")
    assert all(len(reason.split()) > 2 for reason in reasons.values())
    assert len(reasons) <= len([block for block in BLOCKS if block.language == "python"]) / 4


def test_every_strategy_has_its_sentence_where_they_are_chosen():
    page = PAGES["docs/howto/strategy.md"].read_text()
    assert [name for name in SCHEMES if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    "text",
    [
        "laser-fl rnu",
        "laser-fl run --presett mnist",
        "laser-fl run -c powr=1",
        "laser-fl compare --strategies laser,lasr",
        "laser-fl bench mnits",
        "pip install . && laser-fl run \\\n  -c rank=none   # it's continued",
        'flwr run . --run-config "powr=1.0"',
        "python no_such.py",
    ],
)
def test_a_command_that_the_program_does_not_take_is_found(text, place):
    *_, words = commands_in(Block("page", 1, "bash", text))
    with pytest.raises(Exception, match=r"no command|No such option|powr|lasr|mnits|rank|no_such"):
        check(words, place)


def test_empty_words_and_several_lines_of_a_shell_are_told_apart():
    text = "A=1 ssh-keygen -N \"\" -f key; laser-fl list # Flower's\nflwr run --run-config \\\n 'a=1\n b=2'"
    assert list(commands_in(Block("page", 1, "bash", text))) == [
        ["ssh-keygen", "-N", "", "-f", "key"],
        ["laser-fl", "list"],
        ["flwr", "run", "--run-config", "a=1\n b=2"],
    ]
