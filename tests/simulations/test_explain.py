"""`laser-fl explain`: what a setting means, computed without training, agrees with what runs then do."""

import json
import math

import pytest
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.errors import DataError
from simulations.cli import app
from simulations.engines import in_process
from simulations.explain import explain
from simulations.explained import rows
from simulations.run_result import rows_of

SMALL = {"model": "linear", "clients": 4, "batch-size": 4, "rounds": 2}


def call(*arguments, **options):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], **options)


def ledger_of(keys, folder):
    in_process.run(parse(SMALL | keys), folder)
    return rows_of(folder / "ledger.csv")


@pytest.mark.parametrize(
    "keys",
    [
        {"strategy": "laser"}, {"strategy": "laser", "factor-exchange": "two-phase"}, {"strategy": "z-sgd"},
        {"power": "inf"}, {"strategy": "signum", "power-policy": "linear-up"}, {"strategy": "sgd"},
        {"strategy": "d-dsgd", "power": 300},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)  # fmt: skip
def test_what_is_explained_is_what_a_run_does(tmp_path, keys):
    it = explain(parse(SMALL | keys))
    first, second = ledger = ledger_of(keys, tmp_path / "run")
    sent = [line.values for line in it.sent] * (2 // len(it.sent))
    assert sent == [int(row["uplink_floats"]) for row in ledger]
    assert it.rounds == 2
    assert it.channel_uses == sum(int(row["channel_uses"]) for row in ledger)
    assert it.latency_seconds == pytest.approx(sum(float(row["latency_seconds"]) for row in ledger))
    assert it.power_first == pytest.approx(float(first["power_budget"]))
    more = 20 if "factor-exchange" in keys else 0  # the second exchange has a broadcast of its own, of a basis
    assert it.downlink_first + more == int(first["downlink_floats"])
    if it.energy_per_client is not None:
        assert float(first["uplink_energy"]) + float(second["uplink_energy"]) <= 4 * it.energy_per_client * (1 + 1e-5)


def test_the_snr_is_between_that_of_unlike_and_of_alike_signals(tmp_path):
    snr = explain(parse(SMALL | {"strategy": "z-sgd"})).snr
    assert snr.client == pytest.approx(10 * math.log10(1 / 7850))
    (first, _) = ledger_of({"strategy": "z-sgd"}, tmp_path / "run")
    assert snr.unlike - 1 <= float(first["snr_db"]) <= snr.alike


def test_the_snr_follows_power_and_noise():
    one, other = (explain(parse(SMALL | keys)).snr for keys in ({}, {"power": 10, "noise-variance": 100}))
    assert other.client == pytest.approx(one.client - 10)
    assert explain(parse(SMALL | {"clients": 1})).snr.alike == pytest.approx(one.client)


def test_without_noise_there_is_no_snr_no_energy_and_no_lambda():
    for keys in ({"power": "inf"}, {"strategy": "sgd"}):
        it = explain(parse(SMALL | keys))
        assert (it.snr, it.energy_per_client, it.influence) == (None, None, None)
    digital = explain(parse(SMALL | {"strategy": "d-dsgd"}))
    assert digital.snr is None
    assert digital.link_bits > 0


def test_lambda_is_that_of_the_theory():
    """Eq. (11) and (12) at an equal share of P k²/σ², of the largest block."""
    it = explain(parse(SMALL | {"model": "mlp", "power": 1e4})).influence
    power = 1e4 * 16 / 4
    assert (it.block, it.rows, it.columns) == ("1.weight", 256, 784)
    assert it.z_sgd == pytest.approx(256 * 784 / power)
    snr = power / (256 * 784)
    assert it.laser_bound == pytest.approx(4 / (128 * snr) * (1 + 1 / (392 * snr)))
    assert (it.compressed, it.better) == (2, 2)
    assert explain(parse(SMALL | {"strategy": "laser-adaptive", "rank": 0})).influence.compressed == 0


def test_epochs_are_counted_in_rounds_by_the_data():
    it = explain(parse({"model": "linear", "epochs": 3, "power": 2}))
    assert (it.rounds, it.rounds_per_epoch, it.energy_per_client) == (24, 8, 48)


def test_a_noisy_downlink_takes_time():
    ideal, noisy = (explain(parse(SMALL | keys)) for keys in ({}, {"downlink-power": 10}))
    assert noisy.latency_seconds - ideal.latency_seconds == pytest.approx(2 * 7850 / 1e6)


def test_a_model_of_known_size_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.explain.data_dir", pytest.fail)
    assert explain(parse({"task": "wikitext-103", "rounds": 10})).parameters == 123_980_544


def test_where_the_data_are_not_there_the_length_stays_open(tmp_path, monkeypatch):
    def missing(*arguments):
        raise DataError("MNIST: not found")

    monkeypatch.setattr("laser_fl.data.mnist.load_mnist", missing)
    result = call("-c", "task=mnist", "-c", "model=linear", "-c", "epochs=3")
    assert result.exit_code == 0
    assert "3 epochs; the number of rounds follows from the data (MNIST: not found)" in result.stdout


def test_it_fits_on_a_screen_and_describes_the_keys_that_were_given():
    result = call("-c", "power=0.1", "-c", "strategy=z-sgd", "-c", "model=linear", env={"COLUMNS": "100"})
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 30
    assert all(len(line) <= 100 for line in lines)
    described = dict(line.split(maxsplit=1) for line in lines[lines.index("keys") + 1 :] if "=" in line)
    assert described["power=0.1"].startswith("mean power budget of a client per round")
    assert "z-sgd: the gradient itself" in described["strategy=z-sgd"]


def test_a_preset_is_shown_with_its_keys_but_for_those_that_were_given():
    *_, heading, preset, power = call("--preset", "gpt2-wikitext103", "-c", "power=5").stdout.splitlines()
    assert heading == "keys"
    assert preset.startswith("preset gpt2-wikitext103  task=wikitext-103")
    assert " power=" not in preset
    assert power.startswith("power=5.0 ")


@pytest.mark.parametrize("strategy", ["laser", "sgd"])
def test_every_row_has_a_name_of_its_own(strategy):
    names = [name for name, _ in rows(explain(parse({"strategy": strategy})))]
    assert len(set(names)) == len(names)
    assert ("sent, even" in names, "sent" in names) == (strategy == "laser", strategy == "sgd")


@pytest.mark.parametrize("columns", ["40", "80"])
def test_nothing_is_cut(columns):
    shown = call("-c", "model=linear", env={"COLUMNS": columns}).stdout
    words = " ".join(shown.split())
    assert "…" not in shown
    assert "1,578 values (6.3 kB) by a client in even rounds" in words


@pytest.mark.parametrize("strategy", ["sgd", "d-dsgd", "laser"])
def test_json_is_strict_and_has_the_same_numbers(strategy):
    keys = ("-c", "model=linear", "-c", f"strategy={strategy}", "-c", "clients=4", "-c", "rounds=2")
    it = json.loads(call("--json", *keys).stdout, parse_constant=pytest.fail)
    assert (it["strategy"], it["parameters"], it["rounds"]) == (strategy, 7850, 2)
    assert it["sent"][0]["bytes"] == 4 * it["sent"][0]["values"]
    assert it["power_first"] == ("inf" if strategy == "sgd" else 1.0)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-c", "powr=1"], "powr: unknown key, did you mean power?"),
        (["-c", "power=-1"], "power: must be greater than 0 (inf: no noise), got '-1'"),
        (["-c", "power"], "-c: must be KEY=VALUE, got 'power'"),
        (["-c", "clients=4001"], "clients: must be at most the 4000 training examples, got 4001"),
        (["-c", "task=own"], "task: must be"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(arguments, line):
    result = call(*arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(line)


def test_a_key_is_described_with_its_default():
    described = explain(parse(SMALL), ["batch-size"]).keys
    assert described == {"batch-size=4": "examples per client and micro-step (default 32)"}
