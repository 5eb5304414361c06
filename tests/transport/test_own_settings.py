"""Where a node reads, writes and computes is its owner's to say: neither the server nor a run's config can."""

import json
import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients import client_app
from clients.own import settings
from laser_fl.config import parse
from laser_fl.errors import ConfigError, WireError
from laser_fl.federated.setup import data_dir
from laser_fl.storage.snapshots import RUNS, folder_of, new_name
from simulations.engines import deployment
from strategies.server_app import app as server_app
from tests.grids import FakeGrid, run_config
from tests.helpers import StoppedError

NAME = "0123456789abcdef"
SAVING = {"rounds": 1, "checkpoint_every": 1}


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestSnapshots:
    @pytest.mark.parametrize("run", ["../../{0}", "{0}", "0123456789abcdef/../../x", NAME.upper(), NAME[1:], NAME * 9])
    @pytest.mark.parametrize("own", [True, False])
    def test_a_server_that_names_a_folder_makes_a_node_write_nothing(self, tmp_path, monkeypatch, run, own):
        elsewhere = tmp_path / "elsewhere"
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

        def misled(message, context):
            if own:
                context.node_config["checkpoint-dir"] = str(tmp_path / "disk")
            numbers = json.loads(message.content["broadcast"]["text"])
            numbers["acknowledgements"] |= {"folder": str(elsewhere), "run": run.format(elsewhere), "save": True}
            message.content["broadcast"] = ConfigRecord({**message.content["broadcast"], "text": json.dumps(numbers)})
            before = everything_in(tmp_path)
            try:
                client_app.app(message, context)
            except WireError as error:
                refused = str(error)
            assert everything_in(tmp_path) == before
            assert "run" in refused
            raise StoppedError

        values = run_config(tmp_path / "run", **SAVING).to_flat()
        with pytest.raises(StoppedError):
            server_app(FakeGrid(2, values, misled), Context(1, 0, {}, RecordDict(), values))

    @pytest.mark.parametrize(
        ("own", "place"), [({"checkpoint-dir": "{0}/disk"}, "disk/*"), ({}, "state/laser-fl/checkpoints/*")]
    )
    def test_lie_below_a_folder_of_the_nodes_own_apart_for_each_run(self, tmp_path, monkeypatch, own, place):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        for run in ("first", "second"):
            values = run_config(tmp_path / run, **SAVING).to_flat()
            grid = FakeGrid(2, values)
            for context in grid.contexts.values():
                context.node_config |= {key: text.format(tmp_path) for key, text in own.items()}
            server_app(grid, Context(1, 0, {}, RecordDict(), values))
        assert len(list(tmp_path.glob(place))) == 2
        written = {path.parent.parent for path in tmp_path.rglob("node-*-of-2-*")}
        assert written == {(tmp_path / place).parent}

    def test_of_the_latest_runs_are_kept_and_nothing_else_is_touched(self, tmp_path):
        (tmp_path / "theirs").mkdir()
        (tmp_path / new_name()).symlink_to(tmp_path / "theirs")
        runs = [new_name() for _ in range(RUNS + 3)]
        for number, run in enumerate(runs):
            folder = folder_of(run, tmp_path)
            folder.mkdir()
            (folder / "node-0-of-1-00000000.safetensors").touch()
            os.utime(folder, ns=(number, number))
        assert {path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()} == {
            "theirs",
            *runs[-RUNS:],
        }
        assert sum(path.is_symlink() for path in tmp_path.iterdir()) == 1

    def test_are_found_where_the_run_began_to_save_them(self, tmp_path):
        first, second = tmp_path / "first", tmp_path / "second"
        assert folder_of(NAME, first, second) == first / NAME
        (second / NAME).mkdir(parents=True)
        assert folder_of(NAME, first, second) == second / NAME


class FollowedError(Exception):
    """Carries the config that a node follows."""


def followed(monkeypatch, run, own=()):
    """Return the config that a node follows, by the run's config and its own."""

    def stop(config, clients):
        raise FollowedError(config)

    monkeypatch.setattr(client_app, "_trainer", stop)
    place = {"partition-id": 0, "num-partitions": 1} | dict(own)
    context = Context(1, 1, place, RecordDict(), parse({"clients": 2}).to_flat() | run)
    with pytest.raises(FollowedError) as caught:
        client_app.app(Message(RecordDict(), dst_node_id=1, message_type="train"), context)
    return caught.value.args[0]


def in_ray(monkeypatch, initialized=True, actor="1234"):
    runtime = SimpleNamespace(get_actor_id=lambda: actor)
    ray = SimpleNamespace(is_initialized=lambda: initialized, get_runtime_context=lambda: runtime)
    monkeypatch.setitem(sys.modules, "ray", ray)


THEIRS = {"device": "cuda:7", "data-dir": "/theirs", "threads": 64}


class TestTheRunConfig:
    def test_does_not_choose_device_threads_and_data_of_a_real_node(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LASER_FL_DATA", str(tmp_path))
        config = followed(monkeypatch, THEIRS)
        assert (config.device, config.threads, config.data_dir) == ("cpu", 1, "")
        assert data_dir(config) == tmp_path

    def test_does_not_choose_them_by_another_spelling_either(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LASER_FL_DATA", str(tmp_path))
        assert settings(Context(1, 1, {}, RecordDict(), {"data_dir": "/theirs"})) == {}

    def test_gives_way_to_the_nodes_own(self, monkeypatch):
        config = followed(monkeypatch, THEIRS, {"device": "auto", "data-dir": "/mine", "threads": 2})
        assert (config.device, config.threads, config.data_dir) == ("auto", 2, "/mine")

    def test_counts_in_a_simulation_which_is_on_its_owners_machine(self, monkeypatch):
        in_ray(monkeypatch)
        config = followed(monkeypatch, THEIRS)
        assert (config.device, config.threads, config.data_dir) == ("cuda:7", 64, "/theirs")

    @pytest.mark.parametrize("how", [{"initialized": False}, {"actor": None}])
    def test_does_not_count_where_ray_is_but_this_is_no_actor_of_it(self, monkeypatch, how):
        in_ray(monkeypatch, **how)
        assert followed(monkeypatch, THEIRS).device == "cpu"

    @pytest.mark.parametrize(
        "named", ["/etc/passwd", "{0}/other/data", "../data", "{0}/data/../other", "~/data", "tests", "{0}/data/link"]
    )
    @pytest.mark.parametrize("key", ["dataset", "model"])
    def test_names_no_path_outside_of_a_real_nodes_data(self, monkeypatch, tmp_path, key, named):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "link").symlink_to("/etc")
        monkeypatch.setenv("LASER_FL_DATA", str(tmp_path / "data"))
        value = ("transformers:" if key == "model" else "") + named.format(tmp_path)
        run = {"task": "huggingface"} | ({"model": value} if key == "model" else {"dataset": value})
        with pytest.raises(ConfigError, match=f"^{key}: must be no path on a node's machine, but below its") as refused:
            followed(monkeypatch, run)
        assert "\n" not in str(refused.value)
        assert str(tmp_path / "data") not in str(refused.value).replace(value, "")

    def test_may_name_what_has_a_name_everywhere_and_what_is_below_the_nodes_data(self, monkeypatch, tmp_path):
        (tmp_path / "data").mkdir()
        monkeypatch.setenv("LASER_FL_DATA", str(tmp_path))
        for named in ("imdb", "owner/some-data", str(tmp_path / "data"), str(tmp_path / "data" / "train.csv")):
            assert followed(monkeypatch, {"task": "huggingface", "dataset": named}).dataset == named

    def test_gives_way_to_a_path_that_the_nodes_owner_names(self, monkeypatch):
        own = {"dataset": "/mine.csv"}
        config = followed(monkeypatch, {"task": "huggingface", "dataset": "/theirs.csv"}, own)
        assert config.dataset == "/mine.csv"


def test_a_deployment_on_this_machine_gives_its_nodes_what_its_user_asked_for(tmp_path, monkeypatch):
    given = []

    class Recorded:
        def __init__(self, nodes, home, port, own):
            given.append(own)
            raise StoppedError

    monkeypatch.setattr(deployment, "Deployment", Recorded)
    monkeypatch.setattr(deployment, "ending_on_signals", nullcontext)
    keys = {"device": "cpu", "threads": 3, "data-dir": str(tmp_path / "data"), "clients": 2, "model": "linear"}
    with pytest.raises(StoppedError):
        deployment.run(parse(keys), tmp_path / "run", 2, print)
    expected = keys | {"checkpoint-dir": str(tmp_path / "run" / "checkpoints")}
    del expected["clients"]
    assert given == [{0: expected, 1: expected}]
