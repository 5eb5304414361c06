"""Parts from outside the package: wrong ones are refused in one clear line, right ones go to other processes."""

import multiprocessing
import pickle
import re
import textwrap
from importlib.metadata import EntryPoint
from typing import Annotated

import pytest
from typer.testing import CliRunner

import laser_fl
from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.federated.setup import prepare
from laser_fl.registry import CHANNELS, PARTITIONS, POLICIES, SCHEMES, Option, options_of
from simulations.cli import app
from tests.parts import visiting

OPENING = """
from dataclasses import dataclass
import laser_fl as lf
from laser_fl.channels.awgn import Awgn
from laser_fl.schemes.laser import Laser
from laser_fl.schemes.z_sgd import ZSgd
"""
OWN = """
@lf.register_scheme("own")
@dataclass(frozen=True)
class Own(ZSgd):
    'Sends the gradient, scaled.'
    scale: float = lf.option(0.5, "factor of every gradient", gt=0)
"""

WRONG = {
    "a module that does not exist": (
        "",
        {"strategy": "no_such_module:Own"},
        "strategy: no_such_module:Own cannot be imported: "
        "there is no module no_such_module here or among the installed packages",
    ),
    "a module that needs another": (
        "import no_such_package",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own cannot be imported: No module named 'no_such_package'",
    ),
    "a module that raises": (
        "1 / 0",
        {"channel": "plugin:Own"},
        "channel: plugin:Own cannot be imported: ZeroDivisionError: division by zero",
    ),
    "a module that is no Python": (
        "class Own(",
        {"task": "plugin:Own"},
        "task: plugin:Own cannot be imported: SyntaxError: '(' was never closed (plugin.py, line LINE)",
    ),
    "two parts with an option of one name": (
        OWN
        + """
@dataclass(frozen=True)
class Loud(Awgn):
    scale: float = lf.option(2.0, "another factor")
""",
        {"strategy": "plugin:Own", "channel": "plugin:Loud"},
        "channel: plugin:Loud: its option scale must be declared as that of strategy: plugin:Own",
    ),
    "an option with the name of an attribute": (
        OWN + "    length: int = lf.option(1, 'of something')",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own: its option length must have another name, which no key can have",
    ),
    "an option with a private name": (
        OWN + "    _loose: int = lf.option(1, 'of something')",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own: its option _loose must have another name, which no key can have",
    ),
    "a field that is no option": (
        OWN + "    loose: int = 1",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own cannot be imported: "
        "strategy: own: its argument loose must be an option, declared by laser_fl.option",
    ),
    "an option of an unknown type": (
        OWN + "    lam: 'Flaot' = lf.option(1.0, 'of something')",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own cannot be imported: Own: its annotations must be defined (name 'Flaot' is not defined)",
    ),
    "an object that does not exist": (
        OWN,
        {"strategy": "plugin:Onw"},
        "strategy: the module plugin has no Onw",
    ),
    "an object without a name": (
        OWN,
        {"strategy": "plugin:"},
        "strategy: the module plugin has no object of an empty name",
    ),
    "a class of another kind": (
        OWN,
        {"channel": "plugin:Own"},
        "channel: plugin:Own must be a subclass of laser_fl.channels.base:Channel, got Own",
    ),
    "a function for a class": (
        "def own(): ...",
        {"strategy": "plugin:own"},
        "strategy: plugin:own must be a subclass of laser_fl.schemes.base:Scheme, got function",
    ),
    "a value for a function": (
        "own = 3",
        {"task": "plugin:own"},
        "task: plugin:own must be a function, got int",
    ),
    "a function of other arguments": (
        "def own(power): return power",
        {"power-policy": "plugin:own"},
        "power-policy: plugin:own must take (power, step, steps), takes (power)",
    ),
    "a class that lacks methods": (
        "class Own(lf.Scheme):\n    def encode(self, corrected, shared, ctx): ...",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own must define decode, shapes, traits",
    ),
    "a method of another shape": (
        "class Own(ZSgd):\n    def encode(self, corrected, shared): ...",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own: its encode must take (self, corrected, shared, ctx), takes (self, corrected, shared)",
    ),
    "an option with the name of a key of every run": (
        "@dataclass(frozen=True)\nclass Own(ZSgd):\n    power: float = lf.option(1.0, 'of its own', gt=0)",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own: its option power must have another name, which is a key of every run",
    ),
    "an option with the name of another part's": (
        "@dataclass(frozen=True)\nclass Own(ZSgd):\n    rank: int = lf.option(7, 'of its own', ge=1)",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own: its option rank must have the default of that key, 2, or another name, got 7",
    ),
    "an option that cannot be a key": (
        "@dataclass(frozen=True)\nclass Own(ZSgd):\n    layers: list = lf.option(None, 'of its own')",
        {"strategy": "plugin:Own"},
        "layers: an option must be of type int, float, str or Literal, got <class 'list'>",
    ),
    "an option out of its range": (
        OWN,
        {"strategy": "plugin:Own", "scale": -1},
        "scale: must be greater than 0, got -1",
    ),
    "an option that is spelled wrongly": (
        OWN,
        {"strategy": "plugin:Own", "scales": 1},
        "scales: unknown key, did you mean scale?",
    ),
    "a name of two parts": (
        "@lf.register_scheme('one')\nclass One(ZSgd): ...\n@lf.register_scheme('one')\nclass Two(ZSgd): ...",
        {"strategy": "plugin:Two"},
        "strategy: plugin:Two cannot be imported: "
        "strategy: must be registered under a new name, got 'one', which is plugin:One",
    ),
    "a name of a built-in part": (
        "@lf.register_channel('awgn')\nclass Own(Awgn): ...",
        {"channel": "plugin:Own"},
        "channel: plugin:Own cannot be imported: "
        "channel: must be registered under a new name, got 'awgn', which is laser_fl.channels.awgn:Awgn",
    ),
    "a name with a colon": (
        "@lf.register_scheme('my:own')\nclass Own(ZSgd): ...",
        {"strategy": "plugin:Own"},
        "strategy: plugin:Own cannot be imported: "
        "strategy: must be registered under a text without a colon, got 'my:own'",
    ),
    "a task that returns none": (
        "def own(data_dir, config): return 3",
        {"task": "plugin:own"},
        "task: plugin:own must return a laser_fl.Task, got int",
    ),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Stand in a folder of plug-ins, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    with visiting(tmp_path):
        yield tmp_path


def write(folder, code):
    (folder / "plugin.py").write_text(OPENING + textwrap.dedent(code))


def call(*arguments):
    return CliRunner().invoke(app, arguments)


def install(monkeypatch, value, name="own-parts"):
    """Let a package have an entry point in the group of plug-ins."""
    points = [EntryPoint(name, value, "laser_fl.plugins")]
    monkeypatch.setattr("laser_fl.registry.outside.entry_points", lambda group: points)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_plug_in_is_refused_in_one_line(here, case):
    code, values, line = WRONG[case]
    line = line.replace("LINE", str(1 + OPENING.count("\n")))
    write(here, code)
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        prepare(parse(values))
    keys = [argument for key, value in values.items() for argument in ("-c", f"{key}={value}")]
    result = call("run", *keys)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [re.sub(r"got -1$", "got '-1'", line)]
    assert not (here / "runs").exists()


def test_options_of_classes_and_functions_are_keys_in_kebab_case(here):
    code = """
    from typing import Annotated, Literal
    from laser_fl.registry import Option

    @dataclass(frozen=True)
    class Own(ZSgd):
        first_half: Literal["up", "down"] = lf.option("up", "direction")

    def rising(power, step, steps, slope_db: Annotated[float, Option("growth", ge=0)] = 1.0):
        return power * 10 ** (slope_db * step / steps / 10)
    """
    write(here, code)
    values = {"strategy": "plugin:Own", "first-half": "down", "power-policy": "plugin:rising", "slope-db": "10"}
    config = parse(values)
    assert SCHEMES.build(config.strategy, config).first_half == "down"
    assert POLICIES.build(config.power_policy, config)(1.0, 2, 4) == pytest.approx(10**0.5)
    with pytest.raises(ConfigError, match=r"^first-half: must be 'up' or 'down', got 'left'$"):
        parse(values | {"first-half": "left"})
    with pytest.raises(ConfigError, match=r"^slope-db: must be greater than or equal to 0, got -1$"):
        parse(values | {"slope-db": -1})


def test_a_wrong_class_is_refused_where_it_is_registered():
    with pytest.raises(
        ConfigError, match=r"^strategy: own must be a subclass of laser_fl[.]schemes[.]base:Scheme, got int$"
    ):
        laser_fl.register_scheme("own")(int)
    with pytest.raises(ConfigError, match=r"^power-policy: own must take \(power, step, steps\), takes \(power\)$"):
        laser_fl.register_policy("own")(lambda power: power)
    assert "own" not in SCHEMES.outside


def test_a_part_that_is_defined_anew_takes_the_place_of_the_former():
    def define():
        @laser_fl.register_policy("own")
        def flat(power, step, steps):
            return power

        return flat

    former, new = define(), define()
    assert former is not new
    assert POLICIES.load("own") is new


def test_a_config_with_the_keys_of_a_plug_in_survives_pickle(here):
    write(here, OWN)
    config = parse({"strategy": "plugin:Own", "scale": 0.25, "rounds": 3})
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert SCHEMES.build(again.strategy, again).scale == 0.25


def scale_of(config):
    """Build the scheme of a config in another process."""
    return SCHEMES.build(config.strategy, config).scale


@pytest.mark.thorough
@pytest.mark.process
@pytest.mark.parametrize("name", ["plugin:Own", "own"])
def test_a_config_with_the_keys_of_a_plug_in_goes_to_a_process_that_knows_nothing_of_it(here, name):
    write(here, OWN)
    parse({"strategy": "plugin:Own"})  # registers the other name
    config = parse({"strategy": name, "scale": 0.25, "rounds": 3})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(scale_of, (config,)) == 0.25


def test_a_part_of_an_installed_package_goes_by_its_name_alone(here, monkeypatch):
    write(here, OWN)
    monkeypatch.syspath_prepend(here)
    install(monkeypatch, "plugin")
    config = parse({"strategy": "own", "scale": 0.25})
    assert SCHEMES.build("own", config).scale == 0.25


def test_a_list_shows_the_parts_of_installed_packages(here, monkeypatch):
    write(here, OWN)
    monkeypatch.syspath_prepend(here)
    install(monkeypatch, "plugin")
    for arguments in (["list"], ["list", "own"]):
        result = call(*arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "Sends the gradient, scaled." in result.stdout


@pytest.mark.parametrize(("code", "reason"), [("1 / 0", "ZeroDivisionError: division by zero"), (None, "ModuleNot")])
def test_a_package_whose_plug_in_fails_is_named_where_an_unknown_name_is_looked_for(here, monkeypatch, code, reason):
    if code:
        write(here, code)
        monkeypatch.syspath_prepend(here)
    install(monkeypatch, "plugin" if code else "gone_module")
    for arguments in (["list"], ["run", "-c", "channel=unknown"]):
        result = call(*arguments)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"plug-in own-parts of ?: cannot be loaded: {reason}")


def test_built_in_names_load_no_plug_in(here, monkeypatch):
    write(here, "1 / 0")
    monkeypatch.syspath_prepend(here)
    install(monkeypatch, "plugin")
    assert call("run", "-c", "strategy=laser", "-c", "power=-1").stderr.startswith("power: ")


def test_an_unknown_name_is_refused_with_those_that_are_known(monkeypatch):
    install(monkeypatch, "json")
    result = call("run", "-c", "channel=unknown")
    assert result.stderr.splitlines() == [f"channel: must be one of {', '.join(CHANNELS)}, got 'unknown'"]


def test_a_part_from_outside_is_the_known_one_that_may_have_been_meant(here):
    write(here, OWN.replace('"own"', '"top-half"'))
    parse({"strategy": "plugin:Own"})
    with pytest.raises(ConfigError, match=r"got 'tophalf', did you mean top-half\?$"):
        parse({"strategy": "tophalf"})


def test_a_partition_that_returns_something_else_is_refused_in_one_line():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARTITIONS._outside, "three", lambda labels, config: 3)
        setup = prepare(parse({"partition": "three", "clients": 2}))
        with pytest.raises(ConfigError, match=r"^partition: three must return 2 tensors of indices, .*, got int$"):
            _ = setup.schedule


def test_an_integer_default_of_a_number_is_a_number():
    def own(labels, config, share: Annotated[float, Option("share")] = 1):
        pass

    assert isinstance(options_of(own)["share"].default, float)
