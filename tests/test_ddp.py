"""A hook in a DDP loop gives, bit by bit, the updates of `OverTheAir` with the gradients of all ranks."""

import copy
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import laser_fl as lf
from laser_fl.errors import ConfigError, TrainingError

ROOT = Path(lf.__file__).parents[1]
NUMBER = re.compile(r"-?\d+\.\d+")
RANKS, ROUNDS, SMALL_BUCKETS = 3, 6, 0.001  # of a megabyte: a bucket per layer


def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 8)
    return torch.nn.Sequential(*layers)


def convolutions():
    """Return a network whose gradients are not laid out row by row."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(4, 16, 3), torch.nn.Conv2d(16, 8, 3, bias=False), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(128, 8)).to(memory_format=torch.channels_last)


def batch(round, rank, shape=(32,)):
    draw = torch.Generator().manual_seed(100 * round + rank)
    return torch.randn(4, *shape, generator=draw), torch.randint(8, (4,), generator=draw)


def backward(model, round, rank, shape=(32,)):
    inputs, targets = batch(round, rank, shape)
    cross_entropy(model(inputs), targets).backward()


def gradients_of(model, round, ranks, shape=(32,)):
    """Compute each rank's gradient by itself; a row per rank."""
    rows = []
    for rank in range(ranks):
        model.zero_grad()
        backward(model, round, rank, shape)
        rows.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def received(update, model):
    """Return the gradients that DDP is to leave: the update, or zeros where nobody transmitted."""
    return update or {name: torch.zeros_like(p) for name, p in model.named_parameters()}


def assert_gradients(model, expected):
    for name, p in model.module.named_parameters():
        assert torch.equal(p.grad, expected[name]), name


def buckets_of(model):
    """Return the number of buckets, and True where DDP has put the gradients into them anew, in order of arrival."""
    logged = model._get_ddp_logging_data()
    sizes = logged.get("rebuilt_bucket_sizes") if logged.get("has_rebuilt_buckets") else logged["bucket_sizes"]
    return sizes.count(",") + 1, bool(logged.get("has_rebuilt_buckets"))


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


CASES = [
    {"scheme": "z-sgd"},
    {"scheme": "laser", "power_policy": "linear-up"},
    {"scheme": "laser", "factor_exchange": "two-phase", "fraction": 0.7, "dropout_rate": 0.4, "seed": 1},
    {"scheme": "laser", "channel": "fading", "gain_threshold": 2.0},
    {"scheme": "random-k", "norm_cap": 1.0},
    {"scheme": "d-dsgd", "power": 1e3},
    {"scheme": "laser-adaptive", "client_weighting": "examples", "sizes": (5, 1, 3)},
]


def go_on(model, hook, keys):
    """Take everything over into a model and a hook made anew, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(hook.state_dict(), file)
    file.seek(0)
    model = DistributedDataParallel(copy.deepcopy(model.module), bucket_cap_mb=SMALL_BUCKETS)
    hook = lf.ddp_hook(model, **keys)
    hook.load_state_dict(torch.load(file))
    return model, hook


def compare(rank, keys):
    """Train by DDP and by an own loop side by side. Return the number of rounds in which nobody transmitted."""
    keys = {"power": 5.0, "rounds": ROUNDS, **keys}
    alone, model = network(), DistributedDataParallel(network(), bucket_cap_mb=SMALL_BUCKETS)
    ota, hook = lf.OverTheAir(alone, clients=RANKS, **keys), lf.ddp_hook(model, **keys)
    idle = 0
    for round in range(ROUNDS):
        if round == ROUNDS - 2:
            assert buckets_of(model) == (3, True)
            model, hook = go_on(model, hook, keys)
        assert hook.participants == ota.participants
        update = ota.aggregate(gradients_of(alone, round, RANKS))
        idle += update is None
        model.zero_grad()
        backward(model, round, rank)
        assert_gradients(model, received(update, alone))
        assert list(hook.ledger) == list(ota.ledger)
        assert hook.ledger[-1].max_power_used <= hook.ledger[-1].power_budget * (1 + 1e-5)
        ranks = [torch.empty_like(model.module[0].weight.grad) for _ in range(RANKS)]
        dist.all_gather(ranks, model.module[0].weight.grad)
        assert all(torch.equal(other, ranks[0]) for other in ranks)
        with torch.no_grad():  # a torch optimizer imports PyTorch's compiler, which takes long
            for p, q in zip(alone.parameters(), model.module.parameters(), strict=True):
                p.sub_(q.grad, alpha=0.1)
                q.sub_(q.grad, alpha=0.1)
    return idle


def refuse(rank):
    """Let one rank differ, and see the same line on all of them."""
    model = DistributedDataParallel(network())
    with pytest.raises(ConfigError, match="options: must be the same on all ranks, got others on rank 2 than on rank"):
        lf.ddp_hook(model, seed=int(rank == 2))
    hook = lf.ddp_hook(model)
    before = hook.state_dict()
    with pytest.raises(ConfigError, match=f"state: must be of rank {rank}, got {(rank + 1) % RANKS}"):
        hook.load_state_dict({**before, "rank": (rank + 1) % RANKS})
    backward(model, 0, rank)
    if rank == 1:
        hook.load_state_dict(before)
    with pytest.raises(TrainingError, match="all ranks must be in the same round, got rank"):
        backward(model, 1, rank)
    model = DistributedDataParallel(network())
    hook = lf.ddp_hook(model)
    inputs, targets = batch(0, rank)
    with pytest.raises(TrainingError, match="round 1: the gradients must be finite, got others on rank 1"):
        (cross_entropy(model(inputs), targets) * (torch.inf if rank == 1 else 1.0)).backward()
    assert len(hook.ledger) == 0


def be_rank(rank, store):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    idle = [compare(rank, keys) for keys in CASES]
    assert any(idle)
    refuse(rank)
    dist.destroy_process_group()


@pytest.mark.thorough
@pytest.mark.process
def test_ranks_get_the_updates_of_an_own_loop_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_CBWR", "AUTO,STRICT")  # else the gradients' own bits depend on where a tensor lies
    forkserver = torch.multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["torch._dynamo", "scipy.stats", __name__])  # once for all ranks
    torch.multiprocessing.start_processes(be_rank, (tmp_path / "store",), RANKS, start_method="forkserver")


@pytest.mark.parametrize(
    "how", [{}, {"gradient_as_bucket_view": True}, {"static_graph": True}, {"bucket_cap_mb": SMALL_BUCKETS}], ids=str
)
def test_one_rank_is_one_client_in_every_layout_of_buckets(group, how):
    alone, model = convolutions(), DistributedDataParallel(convolutions(), **how)
    ota, hook = lf.OverTheAir(alone, power=5.0, clients=1), lf.ddp_hook(model, power=5.0)
    for round in range(3):
        update = ota.aggregate(gradients_of(alone, round, 1, (4, 8, 8)))
        model.zero_grad()
        backward(model, round, 0, (4, 8, 8))
        assert_gradients(model, update)
    assert list(hook.ledger) == list(ota.ledger)
    assert buckets_of(model)[0] == (4 if "bucket_cap_mb" in how else 1)


def test_accumulated_micro_batches_are_one_round(group):
    alone, model = network(), DistributedDataParallel(network())
    ota, hook = lf.OverTheAir(alone, clients=1), lf.ddp_hook(model)
    with model.no_sync():
        backward(model, 0, 0)
    assert len(hook.ledger) == 0
    backward(model, 1, 0)
    for micro_step in range(2):
        backward(alone, micro_step, 0)
    assert_gradients(model, ota.aggregate({name: p.grad.unsqueeze(0) for name, p in alone.named_parameters()}))


def test_parameters_that_ddp_ignores_or_that_are_frozen_do_not_go_over_the_air(group):
    module = network()
    module[0].weight.requires_grad_(False)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ["2.bias"])
    model = DistributedDataParallel(module)
    hook = lf.ddp_hook(model, scheme="z-sgd")
    backward(model, 0, 0)
    assert hook.ledger[-1].uplink_floats == sum(p.numel() for p in module.parameters()) - 32 * 64 - 48


def test_a_model_that_cannot_have_the_hook_is_refused_in_one_line(group):
    hooked = DistributedDataParallel(network())
    lf.ddp_hook(hooked)
    sparse = DistributedDataParallel(torch.nn.Sequential(torch.nn.Embedding(4, 2, sparse=True)))
    mixed = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).double()))
    plain = DistributedDataParallel(network())
    for model, keys, line in (
        (network(), {}, "model: must be a DistributedDataParallel model, got Sequential"),
        (hooked, {}, "model: cannot have this hook (register_comm_hook or"),
        (sparse, {}, "model: its gradients must be dense, got the sparse layer '0'"),
        (mixed, {}, "model: its weights must be floats of one type, got torch.float32, torch.float64"),
        (plain, {"clients": 2}, "clients: is the number of ranks here, 1, got 2"),
        (plain, {"scheme": "lazer"}, "strategy: must be one of"),
        (plain, {"power_policy": "linear-up"}, "rounds: must be given for power-policy linear-up, got 0"),
        (plain, {"downlink": "update"}, "downlink: is no option of a loop of one's own"),
    ):
        with pytest.raises(ConfigError) as refusal:
            lf.ddp_hook(model, **keys)
        assert str(refusal.value).startswith(line)
        assert "\n" not in str(refusal.value)


def test_a_model_whose_group_is_gone_is_refused():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model = DistributedDataParallel(network())
    dist.destroy_process_group()
    with pytest.raises(ConfigError, match="model: must have a process group that is initialised, got none"):
        lf.ddp_hook(model)


def announced():
    """Return the command in the example's docstring, and the lines that it prints."""
    command, *lines = (ROOT / "examples" / "ddp.py").read_text().split('"""')[1].split("\n$ ")[1].splitlines()
    return command, lines


def test_the_page_shows_what_the_example_announces():
    command, lines = announced()
    assert "\n".join([f"$ {command}", *lines]) in (ROOT / "docs" / "howto" / "ddp.md").read_text()


@pytest.mark.thorough
@pytest.mark.process
def test_the_example_prints_what_it_announces():
    (torchrun, *arguments), lines = announced()[0].split(), announced()[1]
    assert torchrun == "torchrun"
    module = [sys.executable, "-m", "torch.distributed.run", "--standalone"]  # on a free port
    run = subprocess.run([*module, *arguments], cwd=ROOT / "examples", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    printed, expected = run.stdout, "\n".join(lines) + "\n"
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.05)
