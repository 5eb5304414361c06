"""The energy of a gradient in its largest singular values."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_fl.blocks import Block
from laser_fl.config import parse
from laser_fl.federated.spectrum import energy_share, spectrum
from simulations.engines import in_process
from tests.helpers import tensors

pytestmark = pytest.mark.shapes


@given(rows=st.integers(1, 20), columns=st.integers(1, 20), rank=st.integers(1, 25))
def test_is_that_of_the_singular_values(rows, columns, rank):
    matrix = tensors({"m": (rows, columns)}, clients=None)["m"]
    energies = torch.linalg.svdvals(matrix).square()
    assert energy_share(matrix, rank) == pytest.approx(float(energies[:rank].sum() / energies.sum()), abs=1e-9)


def test_a_zero_gradient_has_no_energy():
    assert energy_share(torch.zeros(3, 4), 2) == 0


def test_matrices_that_have_no_more_are_left_out():
    blocks = Block("bias", (5,)), Block("small", (2, 9)), Block("kernel", (3, 2, 2, 1))
    gradient = {block.name: torch.ones(block.shape) for block in blocks}
    assert spectrum(gradient, blocks, 2) == {"kernel": pytest.approx(1.0)}


def test_a_run_records_it_at_its_evaluations(tmp_path):
    keys = {"clients": 4, "rounds": 5, "evaluate-every": 2, "batch-size": 8, "spectrum-rank": 8}
    in_process.run(parse(keys | {"strategy": "sgd"}), tmp_path / "sgd")
    table = pd.read_csv(tmp_path / "sgd" / "spectrum.csv")
    assert table["round"].drop_duplicates().tolist() == [2, 4, 5]
    assert set(table.block) == {"1.weight", "3.weight"}
    assert table.energy.between(0.3, 0.999).all()
    in_process.run(parse(keys | {"strategy": "laser"}), tmp_path / "laser")
    assert pd.read_csv(tmp_path / "laser" / "spectrum.csv").energy.to_numpy() == pytest.approx(1.0)


def test_runs_that_do_not_ask_for_it_have_none(tmp_path):
    in_process.run(parse({"clients": 2, "rounds": 1, "model": "linear"}), tmp_path / "run")
    assert not (tmp_path / "run" / "spectrum.csv").exists()


def test_a_silent_round_has_none(tmp_path):
    keys = {"clients": 1, "rounds": 12, "evaluate-every": 1, "spectrum-rank": 2, "channel": "fading"}
    in_process.run(parse(keys | {"gain-threshold": 1.0}), tmp_path / "run")
    ledger, table = (pd.read_csv(tmp_path / "run" / name) for name in ("ledger.csv", "spectrum.csv"))
    spoken = ledger["round"][ledger.transmitters > 0].tolist()
    assert 0 < len(spoken) < 12
    assert table["round"].drop_duplicates().tolist() == spoken
