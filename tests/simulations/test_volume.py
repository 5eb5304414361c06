"""Sizes of the paper's models, and what schemes send for them (Tables 3, 5 and 8)."""

import csv

import pytest

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.registry import MODELS, SCHEMES
from simulations.engines import in_process
from simulations.volume import all_volumes, listing, model_blocks, volumes
from tests.helpers import VARIANTS, names


@pytest.fixture(scope="module")
def gpt2():
    return model_blocks("gpt2")


def size(blocks):
    return sum(block.size for block in blocks)


def test_every_model_has_its_known_size(gpt2):
    sizes = {name: size(gpt2 if name == "gpt2" else model_blocks(name)) for name in MODELS}
    assert sizes == {"linear": 7850, "mlp": 203530, "cnn": 29642, "resnet18": 11173962, "gpt2": 123980544}
    assert round(4 * sizes["gpt2"] / 1e6) == 496
    assert round(4 * sizes["resnet18"] / 1e6) == 45


def test_gpt2s_matrices_are_those_of_table_5(gpt2):
    shapes = {block.name: block.matrix_shape for block in gpt2}
    assert shapes["transformer.wte.weight"] == (50304, 768)
    assert shapes["transformer.wpe.weight"] == (512, 768)
    assert shapes["transformer.h.0.attn.c_attn.weight"] == (2304, 768)
    assert shapes["transformer.h.0.attn.c_proj.weight"] == (768, 768)
    assert shapes["transformer.h.11.mlp.c_fc.weight"] == (3072, 768)
    assert shapes["transformer.h.11.mlp.c_proj.weight"] == (768, 3072)
    assert sum(block.is_vector for block in gpt2) == 25


def test_resnet18s_matrices_are_those_of_table_8():
    shapes = {block.name: block.matrix_shape for block in model_blocks("resnet18")}
    assert shapes["conv1.weight"] == (64, 27)
    assert shapes["layer4.1.conv2.weight"] == (512, 4608)
    assert shapes["layer3.0.downsample.0.weight"] == (256, 128)
    assert shapes["fc.weight"] == (10, 512)


@pytest.mark.parametrize(
    ("options", "megabytes"),
    [
        ({"strategy": "z-sgd"}, [496]),
        ({"strategy": "signum"}, [15]),
        ({"strategy": "random-k", "compression-factor": 0.2}, [99]),
        ({"strategy": "sketch", "compression-factor": 0.2}, [99]),
        ({"strategy": "laser", "rank": 4, "factor-exchange": "one-shot"}, [3.27]),
        ({"strategy": "laser", "rank": 4, "factor-exchange": "two-phase"}, [3.27]),
        ({"strategy": "laser", "rank": 4}, [1.1, 2.2]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_gpt2s_volumes_are_those_of_table_3(gpt2, options, megabytes):
    """Signum at one bit a value; LASER's two factors together make 3.27 MB, which the paper rounds to 3."""
    found = [line.digital_bytes / 1e6 for line in volumes(parse(options), gpt2)]
    assert found == pytest.approx(megabytes, rel=0.05)


def counted_and_sent(config, folder):
    """(what is counted of a round, what a run's ledger says of it), round by round."""
    in_process.run(config, folder)
    with (folder / "ledger.csv").open() as file:
        ledger = list(csv.DictReader(file))
    lines = volumes(config, model_blocks(config.model))
    return zip(2 * lines if len(lines) == 1 else lines, ledger, strict=True)


@pytest.mark.parametrize("variant", names(VARIANTS))
def test_what_is_counted_is_what_runs_send(tmp_path, variant):
    config = parse(VARIANTS[variant] | {"model": "mlp", "clients": 4, "rounds": 2, "batch-size": 4, "power": 300})
    for line, row in counted_and_sent(config, tmp_path / "run"):
        assert line.values > 0
        assert (row["uplink_floats"], row["side_channel_floats"]) == (str(line.values), str(line.side_values))


def test_what_the_power_carries_is_counted_with_the_noise_of_the_channel(tmp_path):
    sent = set()
    for antennas in (4, 64):
        keys = {"strategy": "laser-adaptive", "channel": "blind", "antennas": antennas, "power": 0.1}
        config = parse(keys | {"model": "linear", "clients": 8, "rounds": 2, "batch-size": 4})
        for line, row in counted_and_sent(config, tmp_path / str(antennas)):
            assert row["uplink_floats"] == str(line.values)
            sent.add(line.values)
    assert len(sent) == 2


def test_every_row_has_four_bytes_a_value(gpt2):
    for line in all_volumes(parse({}), gpt2):
        assert (line.bytes, line.side_bytes) == (4 * line.values, 4 * line.side_values)
    table = listing("linear", parse({"power": 300}))
    cells = {row[0]: row[2:] for row in table.rows}
    assert cells["signum"] == ("7,850", "31.4 kB", "1x", "24 B", "982 B")
    assert cells["d-dsgd"] == ("6", "24 B", "1,308x", "0 B", "22 B")
    assert table.caption.startswith("bytes: 4 a value (float32), on the air and in the noiseless side channel")


def test_an_option_that_is_wrong_for_one_of_the_schemes_is_refused(gpt2):
    with pytest.raises(ConfigError, match="compression-factor: must be greater than 0 for strategy sketch, got 0"):
        all_volumes(parse({"strategy": "random-k", "compression-factor": 0}), gpt2)


def test_all_schemes_and_exchanges_are_listed_once_whatever_the_config_says(gpt2):
    listed = [line.strategy for line in all_volumes(parse({"factor-exchange": "two-phase"}), gpt2)]
    lasers = [f"laser {e}, rank 2" for e in ("alternating", "alternating", "two-phase", "one-shot")]
    place = list(SCHEMES).index("laser")
    assert listed == [*list(SCHEMES)[:place], *lasers, *list(SCHEMES)[place + 1 :]]
