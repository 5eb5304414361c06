"""The command line: what it prints, what it writes, how it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from laser_fl.config import RunConfig, parse
from laser_fl.registry import ALLOCATIONS, CHANNELS, POLICIES, SCHEMES, TASKS
from laser_fl.storage.files import conclude
from simulations import presets
from simulations.cli import app
from simulations.side_by_side import run_all

SHORT = ["-c", "model=linear", "-c", "clients=4", "-c", "rounds=6", "-c", "evaluate-every=3"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_prints_its_progress_and_its_result(tmp_path):
    result = call("run", *SHORT, "-c", "strategy=z-sgd", "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert "round 3/6  train loss" in result.output
    assert "accuracy" in result.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["strategy"] == "z-sgd"


def test_quiet_prints_the_result_only(tmp_path):
    result = call("run", *SHORT, "--quiet", "--out", tmp_path / "run")
    assert result.stderr == ""
    assert "accuracy" in result.stdout


def test_runs_without_a_folder_go_to_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("run", *SHORT, "--quiet").exit_code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mnist-5k-laser-")


def test_a_key_given_twice_and_presets_are_overridden_in_order(tmp_path):
    result = call(
        "run", "--preset", "mnist", "-c", "task=mnist-5k", *SHORT, "-c", "rounds=2", "--out", tmp_path / "run"
    )
    assert result.exit_code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["rounds"], config["momentum"], config["task"]) == (2, 0.9, "mnist-5k")


@pytest.mark.parametrize("engine", ["in-process", "flower", "deployment"])
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-c", "power=-1"], "power: must be greater than 0 (inf: no noise), got '-1'"),
        (
            ["-c", "strategy=lazer"],
            f"strategy: must be one of {', '.join(SCHEMES)}, got 'lazer', did you mean laser?",
        ),
        (["-c", "powr=1"], "powr: unknown key, did you mean power?"),
        (["-c", "power"], "-c: must be KEY=VALUE, got 'power'"),
        (["--preset", "moon"], f"preset: must be one of {', '.join(presets.names())}, got 'moon'"),
    ],
)
def test_a_wrong_value_gives_one_line_and_status_2(tmp_path, engine, arguments, line):
    result = call("run", "--engine", engine, *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [line]
    assert not (tmp_path / "run").exists()


def test_refusals_that_need_the_data_are_as_clear(tmp_path):
    result = call("run", "-c", "clients=4001", "--out", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (2, "clients: must be at most the 4000 training examples, got 4001\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["flower", "deployment"])
def test_fewer_clients_than_nodes_are_refused(tmp_path, engine):
    result = call("run", "--engine", engine, "--nodes", 5, *SHORT, "--out", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (2, "clients: must be at least the number of SuperNodes, 5, got 4\n")


def test_a_run_that_fails_has_status_1(tmp_path):
    result = call(
        "run", *SHORT, "-c", "strategy=sgd", "-c", "model=mlp", "-c", "learning-rate=1e30", "--out", tmp_path / "run"
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("round 2: client 0: the gradient of block 1.weight is not finite")
    assert len(result.stderr.splitlines()) == 1


def test_compare_prints_a_table_and_draws_a_picture(tmp_path, in_this_process):
    result = call("compare", *SHORT, "--quiet", "--out", tmp_path / "all")
    assert result.exit_code == 0
    for name in SCHEMES:
        assert name in result.output
        assert (tmp_path / "all" / name / "summary.json").is_file()
    frame = pd.read_csv(tmp_path / "all" / "comparison.csv")
    assert list(frame["strategy"]) == list(SCHEMES)
    with Image.open(tmp_path / "all" / "accuracy.png") as picture:
        assert picture.size == (1200, 675)


@pytest.mark.thorough
@pytest.mark.process
def test_compare_makes_its_runs_in_processes_of_their_own(tmp_path):
    result = call("compare", *SHORT, "--quiet", "--strategies", "sgd,laser", "--out", tmp_path / "both")
    assert result.exit_code == 0
    assert pd.read_csv(tmp_path / "both" / "comparison.csv").strategy.tolist() == ["sgd", "laser"]


def test_compare_checks_everything_before_it_trains(tmp_path):
    (tmp_path / "laser").mkdir()
    (tmp_path / "laser" / "precious").write_text("x")
    result = call("compare", *SHORT, "--quiet", "--strategies", "sgd, laser", "--out", tmp_path)
    assert (result.exit_code, "must be a new or empty folder" in result.stderr) == (2, True)
    assert not (tmp_path / "sgd").exists()
    result = call("compare", *SHORT, "-c", "strategy=laser")
    assert (result.exit_code, result.stderr) == (
        2,
        "strategy: must be given by --strategies here, got -c strategy=laser\n",
    )


def test_compare_refuses_what_only_the_data_tell_before_any_run(tmp_path):
    result = call(
        "compare", *SHORT, "-c", "channel=fading", "-c", "gain-threshold=30", "--quiet", "--out", tmp_path / "all"
    )
    assert (result.exit_code, result.stderr.startswith("gain-threshold: must let")) == (2, True)
    assert not (tmp_path / "all").exists()


def test_compare_says_who_was_silent_and_who_needed_no_power(tmp_path, in_this_process):
    result = call("compare", *SHORT, "--quiet", "--strategies", "sgd,d-dsgd,laser", "--out", tmp_path / "three")
    assert "nothing sent" in result.output
    assert result.output.count("no noise") == 1


def test_holdings_are_drawn_and_counted(tmp_path):
    result = call("holdings", "-c", "partition=shards", "-c", "clients=5", "--out", tmp_path / "who.png")
    assert (result.exit_code, "examples per client: 800 to 800" in result.output) == (0, True)
    with Image.open(tmp_path / "who.png") as picture:
        assert picture.size[0] > 600
    refused = call("holdings", "-c", "task=pydoc", "-c", "model=gpt2")
    assert (refused.exit_code, refused.stderr) == (2, "task: must have labels, got 'pydoc'\n")


@pytest.mark.parametrize("names", ["sgd,sgd", ""])
def test_compare_wants_each_strategy_once(names):
    assert call("compare", "--strategies", names).exit_code == 2


@pytest.mark.thorough
@pytest.mark.killed
def test_a_process_that_dies_leaves_the_other_runs_their_results(tmp_path, monkeypatch):
    """As when the system runs out of memory and kills one; the next run gets another."""
    monkeypatch.setattr("simulations.side_by_side._run", dying)
    base = parse({"model": "linear", "clients": 4, "rounds": 2, "threads": 0})  # one process after the other
    runs = {n: base.model_copy(update={"strategy": n, "out_dir": str(tmp_path / n)}) for n in ("sgd", "z-sgd")}
    outcomes = run_all(runs, lambda report: None)
    assert outcomes["sgd"].summary == {"status": "completed"}
    assert (outcomes["z-sgd"].summary, outcomes["z-sgd"].reason) == ({}, "its process ended with status -9")


@pytest.mark.thorough
@pytest.mark.killed
def test_an_interrupted_comparison_leaves_summaries_and_no_folder_of_what_had_not_begun(tmp_path):
    """The second of three strategies is at work when the user ends it."""
    base = parse({"model": "linear", "clients": 4, "rounds": 100_000, "evaluate-every": 1000, "threads": 0})
    runs = {n: base.model_copy(update={"strategy": n, "out_dir": str(tmp_path / n)}) for n in ("laser", "sgd", "z-sgd")}
    runs["z-sgd"] = runs["z-sgd"].model_copy(update={"rounds": 2})

    def interrupt(report):
        if report.label == "sgd":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(runs, interrupt)
    ended = {path.parent.name: json.loads(path.read_text())["status"] for path in tmp_path.glob("*/summary.json")}
    assert ended == {"z-sgd": "completed", "sgd": "interrupted"}
    assert not (tmp_path / "laser").exists()


def test_a_run_whose_process_died_has_a_summary_that_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    conclude(tmp_path, "in-process", "failed", "it was killed")
    conclude(tmp_path, "in-process", "interrupted", "and has its summary")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", "it was killed")
    conclude(tmp_path / "never begun", "in-process", "failed", "it was killed")
    assert not (tmp_path / "never begun").exists()


def dying(label, config, post):
    if label == "z-sgd":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"status": "completed"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["volume", "--model", "vgg"], "--model: must be one of linear, mlp, cnn, resnet18, gpt2, got 'vgg'"),
        (["volume", "--strategy", "lazer"], "strategy: must be one of sgd, z-sgd, signum"),
        (["volume", "-c", "model=linear"], "model: must be given by --model here, got -c model=linear"),
        (["theory", "-c", "strategy=sgd"], "strategy: must be given by --strategy here, got -c strategy=sgd"),
    ],
)
def test_volume_and_theory_refuse_what_they_cannot_use(arguments, line):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["run", "--preset", "mnits"], "got 'mnits', did you mean mnist?"),
        (["compare", "--strategies", "laser,zsgd"], "got 'zsgd', did you mean z-sgd?"),
        (["run", "-c", "callbacks=best-weights,early-stoping"], "did you mean early-stopping?"),
        (["run", "-c", "task=cifar10", "-c", "model=resnet-18"], "got 'resnet-18', did you mean resnet18?"),
        (["reproduce", "figur6"], "got 'figur6', did you mean figure6?"),
        (["reproduce", "figure2", "--only", "strategies=laser"], "got 'strategies', did you mean strategy?"),
        (["bench", "mnits"], "got 'mnits', did you mean mnist?"),
        (["bench", "mnist", "--strategies", "laser,sdg"], "got 'sdg', did you mean sgd?"),
        (["volume", "--model", "resnet"], "got 'resnet', did you mean resnet18?"),
        (["list", "stategy"], "got 'stategy', did you mean strategy?"),
        (["list", "zzz"], "got 'zzz'"),
    ],
)
def test_a_name_that_is_nearly_a_known_one_is_followed_by_it(arguments, end):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"{end}\n")
    assert len(result.stderr.splitlines()) == 1


def test_volume_and_theory_print_their_tables():
    volume = call("volume", "--model", "mlp").output
    assert "laser alternating, rank 2" in volume
    assert "203,530" in volume
    theory = call("theory", "--model", "linear", "-c", "power=inf").output
    assert "1.weight" in theory


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nodes", 4], "--nodes: must go with --engine flower or deployment, got 4"),
        (["--port", 9092], "--port: must go with --engine deployment, got 9092"),
        (["--engine", "flower", "--port", 9092], "--port: must go with --engine deployment, got 9092"),
        (["--engine", "deployment", "--port", 0], "--port: must be between 1 and 65535, got 0"),
        (["--engine", "deployment", "--port", 65536], "--port: must be between 1 and 65535, got 65536"),
    ],
)
def test_nodes_and_ports_belong_to_engines_that_have_them(arguments, line):
    result = call("run", *SHORT, *arguments)
    assert (result.exit_code, result.stderr) == (2, line + "\n")


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = call("run", "--engine", "deployment", *SHORT, "--port", port, "--out", tmp_path / "run")
    line = f"--port: must be free, got {port} (address already in use)\n"
    assert (result.exit_code, result.stderr) == (2, line)
    assert not (tmp_path / "run").exists()


def test_compare_goes_on_when_a_strategy_fails_and_says_so(tmp_path, in_this_process):
    result = call(
        "compare",
        *SHORT,
        "--quiet",
        "-c",
        "model=mlp",
        "-c",
        "learning-rate=1e30",
        "--strategies",
        "sgd,d-dsgd",
        "--out",
        tmp_path / "two",
    )
    assert result.exit_code == 1
    assert "sgd: round 2" in result.stderr
    assert (tmp_path / "two" / "accuracy.png").is_file()  # of the other, whose messages do not fit


def test_list_shows_every_part_and_every_key():
    output = call("list").output
    for table in (SCHEMES, CHANNELS, POLICIES, ALLOCATIONS, TASKS):
        for name in table:
            assert name in output
    for name in presets.names():
        assert name in output
    for field in RunConfig.model_fields.values():
        assert field.alias in output


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rank", ["config key rank", "default  2", "values   an integer >= 0", "strategy laser (an integer > 0)"]),
        ("rayleigh", ["channel fading", "channel blind", "config key rician-k-db"]),
        ("truncated inversion", ["channel fading"]),
        ("QPSK", ["strategy signum"]),
        ("gpt2-small", ["preset gpt2-small", "embedding"]),
        ("fading", ["gain-threshold", "a number >= 0; default 0.1"]),
    ],
)
def test_list_shows_one_thing_whole_and_finds_it_by_the_fields_words(name, lines):
    output = " ".join(call("list", name).output.split())
    for line in lines:
        assert " ".join(line.split()) in output
    assert "power-allocation uniform" not in output


def test_list_refuses_a_word_that_describes_nothing():
    result = call("list", "warp drive")
    assert (result.exit_code, result.stderr.splitlines()) == (
        2,
        ["NAME: must be a part, a key, a preset or a word that describes one, got 'warp drive'"],
    )


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "rank"]])
def test_help_and_list_import_nothing_heavy(arguments):
    code = (
        "import sys; from simulations.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'flwr', 'ray', 'pandas', 'matplotlib', 'torchvision', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("options", [["lr-schedule=cosine"], ["optimizer=adamw", "model=linear"]])
@pytest.mark.process
def test_a_short_run_imports_torch_without_its_compiler_and_no_package_that_it_does_not_use(options, tmp_path):
    """The compiler takes longer to import than the rest; torch's optimizers, gradients and traces ask for it."""
    code = (
        "import sys; from simulations.cli import app\n"
        f"arguments = {[word for option in options for word in ('-c', option)]!r}\n"
        f"try: app(['run', '--quiet', '-c', 'rounds=5', *arguments, '--out', {str(tmp_path / 'run')!r}])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch._dynamo', 'torch._inductor', 'sympy', 'torchvision', 'pandas', 'scipy', 'matplotlib', 'flwr',"
        " 'ray', 'transformers', 'tensorboard'}\n"
        "sys.exit(f'imported {found}' if (found := heavy & set(sys.modules)) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


@pytest.mark.thorough
@pytest.mark.process
def test_the_in_process_engine_runs_where_flower_and_ray_are_not_installed(tmp_path):
    code = (
        "import sys\n"
        "for name in ('flwr', 'ray'): sys.modules[name] = None\n"
        "from simulations.cli import app\n"
        f"app(['run', '--quiet', '-c', 'rounds=1', '--out', {str(tmp_path / 'run')!r}])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"
