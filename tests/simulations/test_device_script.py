"""`.ci/device` runs without Flower and Ray, keeps what it measured, and fails where a case fails."""

import csv
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import torch

from laser_fl.config import parse
from laser_fl.registry import SCHEMES
from simulations.benchmarks import agreement, device
from simulations.benchmarks.device_parts import Part
from simulations.engines import in_process

ROOT = Path(__file__).parents[2]
WITHOUT = (
    "import sys; from tests.light import finders_without; sys.meta_path[:] = finders_without({'flwr', 'ray'}); "
    "from simulations.benchmarks.device import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.thorough
@pytest.mark.process
def test_it_needs_neither_flower_nor_ray(tmp_path):
    parts = ["agree:mlp-laser-two", "bench:mnist.float32.laser", "cifar:laser"]
    command = [sys.executable, "-c", WITHOUT, *parts, "--device", "cpu", "--out", str(tmp_path), "--seconds", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    agree, bench, cifar = json.loads((tmp_path / "results.json").read_text()).values()
    assert {one["status"] for one in (agree, bench, cifar)} == {"done"}
    assert (agree["difference"], agree["resumed_equal"]) == (0, True)
    assert bench["gradient_share"] > 0
    assert cifar["rounds"] == 12
    assert len((tmp_path / "cifar-laser.csv").read_text().splitlines()) == 1 + 3


@pytest.fixture
def parts(monkeypatch):
    """Parts of a few instant cases."""

    def work(case, *more):
        if case.startswith("bad"):
            raise RuntimeError("no such kernel")
        return {"figure": 1.5} if case == "good" else {"skipped": "no data"}

    table = {"a": Part(0.5, lambda toy: ["good", "none"], work), "b": Part(0.5, lambda toy: ["bad", "good"], work)}
    monkeypatch.setattr(device, "PARTS", table)


@pytest.mark.usefixtures("parts")
class TestTheParts:
    def call(self, out, *arguments, seconds=100):
        status = device.main([*arguments, "--device", "cpu", "--out", str(out), "--seconds", str(seconds)])
        return status, json.loads((out / "results.json").read_text())

    def test_all_are_run_and_one_that_fails_fails_loudly(self, tmp_path, capsys):
        status, cases = self.call(tmp_path)
        assert status == 1
        assert {name: one["status"] for name, one in cases.items()} == {
            "a:good": "done", "a:none": "skipped", "b:bad": "failed", "b:good": "done",
        }  # fmt: skip
        assert "failed   b:bad  RuntimeError: no such kernel" in capsys.readouterr().out
        with (tmp_path / "a.csv").open() as file:
            assert [row["figure"] for row in csv.DictReader(file)] == ["1.5", ""]

    def test_what_was_measured_before_stays(self, tmp_path):
        assert self.call(tmp_path, "a:good")[0] == 0
        status, cases = self.call(tmp_path, "b:good")
        assert status == 0
        assert cases.keys() == {"a:good", "b:good"}

    def test_what_does_not_fit_is_listed_with_its_command(self, tmp_path):
        status, cases = self.call(tmp_path, "b:good", seconds=1)
        assert status == 1
        assert (cases["b:good"]["status"], cases["b:good"]["command"]) == ("cut off", ".ci/device b:good --device cpu")

    def test_the_next_process_goes_on_after_a_case_that_killed_one(self, tmp_path):
        results = device.Results(tmp_path, "cpu")
        results.put(["a:good", "a:none"], status="planned")
        results.put(["a:good"], status="begun")
        status, cases = self.call(tmp_path, "a", "--go-on")
        assert status == 1
        assert [cases[name]["status"] for name in ("a:good", "a:none")] == ["failed", "skipped"]

    @pytest.mark.parametrize(
        ("part", "line"),
        [("c", "PART: must be one of a, b, got 'c'"), ("a:x", "a: cases must begin as good, none, got 'x'")],
    )
    def test_an_unknown_one_is_refused(self, tmp_path, capsys, part, line):
        assert device.main([part, "--device", "cpu", "--out", str(tmp_path), "--seconds", "9"]) == 2
        assert capsys.readouterr().err == f"{line}\n"


def test_all_strategies_are_compared_at_the_paper_s_networks():
    assert set(SCHEMES) <= agreement.VARIANTS.keys()
    assert agreement.OWN_LIMITS.keys() <= agreement.VARIANTS.keys()


def test_a_run_that_differs_or_forgets_is_found(monkeypatch, tmp_path):
    weights = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr(agreement, "_weights", lambda *more: {"w": torch.tensor([4.0, 4 + next(weights)])})
    monkeypatch.setattr(agreement, "_resumed", lambda *more: {"w": torch.tensor([4.0, 4 + next(weights)])})
    found = agreement.agree("mlp-laser", "cpu", toy=True)
    assert found["difference"] == 0.25
    assert found["failed"] == "difference 2.5e-01 above 0.0001; the run that went on has other bits"


def test_a_run_is_stopped_and_goes_on(tmp_path):
    config = parse({"model": "linear", "clients": 2, "batch-size": 8, "rounds": 4, "checkpoint-every": 2})
    assert agreement.stop_and_go_on(config, tmp_path / "stopped", 3)["rounds"] == 4
    in_process.run(config, tmp_path / "whole")
    one, other = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("stopped", "whole"))
    assert one == other


def test_wheels_are_fetched_for_the_other_machine(tmp_path, monkeypatch):
    loader = SourceFileLoader("device_script", str(ROOT / ".ci" / "device"))
    script = module_from_spec(spec_from_loader(loader.name, loader))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(script)
    commands = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, **more: commands.append(command))
    script.prepare(tmp_path, "3.12", ["manylinux_2_28_x86_64"])
    assert [command[-1] for command in commands] == list(script.NEEDED)
    assert all({"download", "3.12", "manylinux_2_28_x86_64", str(tmp_path)} <= set(command) for command in commands)
