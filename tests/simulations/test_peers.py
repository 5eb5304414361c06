"""laser-fl and its peers do the same work, so that their times can be compared."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated.setup import prepare
from simulations.benchmarks import peers, peers_cifar
from simulations.benchmarks.base import Request
from simulations.benchmarks.peers_work import Work

ROUNDS = 3
FEDSGD = {"task": "mnist-5k", "clients": 5, "batch-size": 16, "rounds": 100, "learning-rate": 0.1, "model": "linear"}
LOCAL = FEDSGD | {"local-steps": 4}
ONE_STEP = ["loop", "loop, batches ready", "pfl", "BlazeFL", "BlazeFL, DataLoader"]
SEVERAL = ["local loop", "pfl", "BlazeFL", "BlazeFL, DataLoader"]


@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")  # pfl takes the main thread's
@pytest.mark.parametrize(
    ("name", "keys"),
    [pytest.param(name, FEDSGD, id=name) for name in ONE_STEP]
    + [pytest.param(name, LOCAL, id=f"{name}, local steps") for name in SEVERAL],
)
def test_a_peer_ends_at_the_weights_of_sgd(name, keys):
    peer = peers.PEERS[name]
    if not find_spec(peer.package):
        pytest.skip(f"{peer.package} is not installed")
    work = Work.of(prepare(parse(keys)), ROUNDS)
    start = work.module().state_dict()
    theirs, ours = peer.build(work), peers.PEERS["sgd"].build(work)
    for _ in range(ROUNDS):
        theirs()
        ours()
    for name, weight in ours.weights.items():
        assert not torch.allclose(weight, start[name], atol=1e-3)
    for (name, weight), own in zip(ours.weights.items(), theirs.weights.values(), strict=True):
        torch.testing.assert_close(own, weight, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_a_peer_that_is_not_installed_has_a_line_that_says_so(monkeypatch):
    keys = {"task": "mnist-5k", "model": "linear", "clients": 4, "batch_size": 8}
    monkeypatch.setattr(peers, "CASES", (peers.Case("tiny", ("loop", "pfl"), 2, 1, keys),))
    monkeypatch.setattr(peers, "apart", lambda measure, *args: measure(*args))
    absent = peers.Peer(peers.PEERS["pfl"].build, "no-such-package", "pip install no-such-package")
    monkeypatch.setitem(peers.PEERS, "pfl", absent)
    laser, loop, pfl = peers.peers(Request())
    assert [line["status"] for line in (laser, loop)] == [peers.MEASURED] * 2
    assert laser["ratio"] == 1
    assert loop["cpu_ms"] > 0
    assert (pfl["status"], pfl["version"]) == ("not installed: pip install no-such-package", None)
    assert pfl["ratio"] is pfl["cpu_ms"] is None


class Stub:
    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __call__(self):
        self.calls.append(self.name)

    def processor_seconds(self):
        return float(len(self.calls))


def test_sides_take_turns_of_several_rounds():
    calls = []
    seconds = peers.in_turn({name: Stub(name, calls) for name in "ab"}, turns=2, rounds=2, warm_up=1)
    assert "".join(calls) == "ab" + "aabb" * 2
    assert {name: own.tolist() for name, own in seconds.items()} == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_taken_within_a_turn():
    """So that turns in which the machine was slow weigh no more than others."""
    figures = peers._figures(np.array([0.2, 0.4, 0.9]), np.array([0.1, 0.4, 0.3]))
    assert (figures["ratio"], figures["ratio_quartile_1"], figures["ratio_quartile_3"]) == (2, 1.5, 2.5)
    assert figures["cpu_ms"] == 400


def test_in_the_published_setting_each_client_has_two_labels_and_each_example_once_per_epoch():
    labels = torch.arange(400) % 10
    dealt = peers_cifar.shards(labels, parse({"clients": 20}))
    for own in dealt:
        assert len(labels[own].unique()) <= peers_cifar.SHARDS_PER_CLIENT
    counts = torch.cat(list(dealt)).bincount()
    assert counts.tolist() == [peers_cifar.LOCAL_EPOCHS] * 400
