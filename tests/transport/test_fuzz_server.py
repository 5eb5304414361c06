"""The whole server among hostile nodes: every run ends, and leaves out them, by name, and nobody else."""

import logging
import subprocess
import sys
from collections import Counter

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.pipeline import encode_update
from laser_fl.transport.arrays import write_tensors
from strategies import OverTheAir
from tests.effort import THOROUGH, cases
from tests.grids import Clock
from tests.helpers import tensors
from tests.hostile import REFUSED, SAME, HostileGrid, verdict
from tests.spoilers import Spoilers

pytestmark = pytest.mark.fuzz
HARMLESS = {"metadata"}  # of a reply: nobody reads them
ANSWERED = {"asks_for_everything", "honest_request"}  # by another message, to which there is another reply
CLIENTS, ROUNDS = 32, 8
HONEST = {100: (0, 2), 101: (16, 32)}  # two nodes with 17 clients
HOSTILE = {200 + client: client for client in range(17, CLIENTS)}

SMALL = {"w": (6, 9), "b": (6,)}
DEEPER = {"kernel": (8, 2, 3, 3), "hidden": (12, 10), "bias": (12,), "norms": (4,)}
STATISTICS = {"mean": torch.zeros(3), "variance": torch.ones(3)}
SCENES = {
    "laser": ({"strategy": "laser"}, SMALL, STATISTICS),
    "laser two-phase": ({"strategy": "laser", "factor-exchange": "two-phase"}, DEEPER, STATISTICS),
    "laser one-shot": ({"strategy": "laser", "factor-exchange": "one-shot"}, SMALL, {}),
    "laser-adaptive": ({"strategy": "laser-adaptive", "noise-variance": 1e4}, SMALL, STATISTICS),
    "z-sgd": ({"strategy": "z-sgd"}, DEEPER, STATISTICS),
    "signum": ({"strategy": "signum"}, SMALL, {}),
    "random-k over fading": ({"strategy": "random-k", "channel": "fading"}, DEEPER, STATISTICS),
    "sketch": ({"strategy": "sketch"}, SMALL, STATISTICS),
    "a-dsgd": ({"strategy": "a-dsgd"}, SMALL, STATISTICS),
    "d-dsgd": ({"strategy": "d-dsgd"}, SMALL, STATISTICS),
    "copies": ({"downlink": "update", "downlink-power": 1e3}, SMALL, STATISTICS),
    "replicas": ({"downlink": "compressed", "momentum": 0.9}, DEEPER, STATISTICS),
    "replicas two-phase": ({"downlink": "compressed", "factor-exchange": "two-phase"}, SMALL, {}),
}


def respond(broadcast, memory):
    """A client of any model, whose gradient and statistics depend on round and client only: nothing poisons them."""
    ctx = broadcast.context
    losses = torch.ones(len(ctx.participants), dtype=torch.float64)
    if ctx.phase > 0:
        return encode_update(broadcast, None, losses, memory)

    def drawn(shape):
        generator = torch.Generator().manual_seed(ctx.round)
        return torch.randn(len(ctx.participants), *shape, generator=generator)

    gradients = {block.name: drawn(block.shape) for block in ctx.blocks}
    buffers = {name: drawn(b.shape).square() for name, b in broadcast.buffers.items()}
    return encode_update(broadcast, gradients, losses, memory, buffers)


def run(scene, spoilers, share=0.9):
    """Run; return (grid, ledger)."""
    options, shapes, buffers = SCENES[scene]
    settings = {"clients": CLIENTS, "power": 1e3, "learning-rate": 1e-3, "min-available-nodes": 2, "max-retries": 0}
    grid = HostileGrid(HONEST, HOSTILE, spoilers, respond, share)
    strategy = OverTheAir(parse(settings | options), schedule=RoundSchedule(ROUNDS), buffers=buffers)
    strategy.start(grid, write_tensors(tensors(shapes, None, dtype=torch.float32)))
    return grid, strategy.server.ledger


def left_out(record):
    return {int(one.split()[0]) for one in record.left_out.split("; ") if one}


def judge(grid, ledger, counts):
    """Compare the ledger with what arrived; counts: of replies by way and verdict."""
    assert len(ledger) == ROUNDS
    judged = {}
    for (round, _, node), (way, sound, arrived) in grid.arrived.items():
        one = SAME if way in ("none", "metadata") else verdict(sound, arrived)
        judged.setdefault((round, node), []).append((way, one))
        counts[way, one] += 1
    for round, record in enumerate(ledger):
        out = left_out(record)
        assert out <= set(HOSTILE.values())
        for node, client in HOSTILE.items():
            found = judged.get((round, node), [("not asked, since it is refused", REFUSED)])
            verdicts = {one for _, one in found}
            if REFUSED in verdicts:
                assert client in out, (round, found)
            elif verdicts == {SAME}:
                assert client not in out, (round, found)


@pytest.fixture
def paths(tmp_path):
    """Places where nobody should look."""
    (tmp_path / "laser-fl-x").mkdir()
    (tmp_path / "laser-fl-x" / "taken").touch()
    (tmp_path / "laser-fl-x" / "short").write_bytes(b"abc")
    (tmp_path / "laser-fl-x" / "link").symlink_to("/etc/passwd")
    inside = [f"{tmp_path}/laser-fl-x/{name}" for name in ("short", "link", "none", "..", "", "a\0b", "x" * 300)]
    return ["/etc/passwd", "/dev/zero", "/dev/shm", "/proc/self/mem", "", "/", "x" * 5000, *inside]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr("strategies.node_messenger.time", Clock(least=100.0))  # replies may never come
    level = logging.getLogger("flwr").level
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("flwr").setLevel(level)


@pytest.mark.parametrize("shared", [True, False], ids=["in files", "in messages"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_run_among_hostile_nodes_ends_and_leaves_out_them_alone(scene, shared, paths, monkeypatch):
    if not shared:
        monkeypatch.setattr("strategies.over_the_air.SharedMemory.with_room", lambda size: None)
    spoilers, counts = Spoilers(f"{scene} {shared}", paths), Counter()
    while sum(n for (way, _), n in counts.items() if way != "none") < cases(10_000) / 2 / len(SCENES):
        judge(*run(scene, spoilers), counts)
    if THOROUGH:
        either = {"array"} if shared else set()  # it is one more beside the file, and may be what the scheme sends
        assert {way for way, judged in counts if judged == REFUSED} >= set(
            spoilers.names
        ) - HARMLESS - ANSWERED - either


@pytest.mark.parametrize("way", Spoilers(0).names)
def test_a_reply_is_refused_for(way, paths, monkeypatch):
    spoilers, counts = Spoilers(way, paths), Counter()
    spoilers.names = [way]
    judge(*run("laser", spoilers, share=0.5), counts)
    monkeypatch.setattr("strategies.over_the_air.SharedMemory.with_room", lambda size: None)
    judge(*run("z-sgd", spoilers, share=0.5), counts)
    assert counts[way, REFUSED] > 2 or way in HARMLESS


PEAKS = """
import logging, resource
import tests.typecheck
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
logging.getLogger("flwr").setLevel(logging.CRITICAL)
from strategies import node_messenger
from tests.transport.test_fuzz_server import Clock, Spoilers, run
node_messenger.time = Clock(least=100.0)
for share in (0.0, 0.9):
    for scene in ("laser", "z-sgd", "replicas"):
        run(scene, Spoilers(scene), share)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.process
def test_hostile_nodes_do_not_make_the_process_half_as_large_again():
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    honest, hostile = map(int, done.stdout.split())
    assert hostile < 1.5 * honest
