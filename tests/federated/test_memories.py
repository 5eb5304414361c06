"""Memories of clients that take part one after the other, in pages and in a file."""

import math
import os

import pytest
import torch

from laser_fl.errors import StorageError
from laser_fl.federated import memories as module
from laser_fl.federated.memories import Memories
from laser_fl.pipeline import correct

SHAPES = {"weight": (2, 3), "bias": (3,)}
COHORTS = [(3, 5), (1, 5, 7), (0, 1), (3, 5), (2, 3, 4, 6), (0, 1, 2, 3, 4, 5, 6, 7)]


def rows(count, value):
    return {name: torch.full((count, *shape), float(value)) for name, shape in SHAPES.items()}


def walk(memories):
    """Give each cohort's clients a step in each round, and return a plain count of them."""
    steps = [0] * 8
    for cohort in COHORTS:
        taken = memories.take(cohort)
        assert bool(taken) == any(steps[client] for client in cohort)
        if taken:
            for name in SHAPES:
                assert [int(row.unique()) for row in taken[name]] == [steps[client] for client in cohort]
        memories.put(cohort, {name: t + 1 for name, t in (taken or rows(len(cohort), 0)).items()})
        for client in cohort:
            steps[client] += 1
    return steps


ROW = 4 * 9  # bytes


@pytest.mark.parametrize("page", [module.PAGE, 0, ROW, 3 * ROW], ids=["one page", "a page per cohort", "rows", "three"])
@pytest.mark.parametrize("kept", [module.KEPT, 0])
def test_every_client_gets_its_own_memory_back_wherever_it_lies(kept, page, monkeypatch):
    monkeypatch.setattr(module, "KEPT", kept)
    monkeypatch.setattr(module, "PAGE", page)
    memories = Memories(range(8))
    assert memories.take((3, 5)) == {}
    steps = walk(memories)
    assert memories.owners == tuple(range(8))
    assert memories["bias"][:, 0].tolist() == steps
    assert (memories._file is not None) == (kept == 0)


def test_clients_that_never_took_part_cost_nothing_and_have_zeros():
    memories = Memories(range(1_000_000))
    memories.put((5, 999_999), rows(2, 1))
    assert memories.owners == (5, 999_999)
    assert memories.take((4, 5))["bias"][:, 0].tolist() == [0, 1]


def test_cohorts_of_newcomers_share_a_page():
    memories = Memories(range(1000))
    for first in range(0, 100, 10):
        memories.put(tuple(range(first, first + 10)), rows(10, first))
    assert len(memories._pages) == 1
    assert memories.take((5, 95))["bias"][:, 0].tolist() == [0, 90]


def test_rows_of_clients_that_always_come_together_change_in_place():
    given = rows(8, 0)
    memories = Memories.of(given, range(8))
    assert memories.take(tuple(range(8)))["weight"] is given["weight"]
    assert memories.take(tuple(range(8)), copied=True)["weight"] is not given["weight"]


def test_a_folder_without_room_is_named(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "KEPT", 0)
    monkeypatch.setattr(module.tempfile, "TemporaryFile", full)
    with pytest.raises(StorageError, match="memories of clients cannot be kept there"):
        walk(Memories(range(8)))


@pytest.mark.parametrize("is_cuda", [False, True], ids=["cpu", "gpu"])
def test_a_newcomers_broken_gradient_does_not_become_its_memory(is_cuda, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: is_cuda))
    gradients = {"bias": torch.tensor([[1.0, 2.0, 3.0], [math.nan, 1.0, 1.0]])}
    corrected, losses, _ = correct({}, gradients, torch.ones(2, dtype=torch.float64))
    assert corrected["bias"].tolist() == [[1, 2, 3], [0, 0, 0]]
    assert losses.isnan().tolist() == [False, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_has_memories_of_its_own():
    memories = Memories(range(100))
    memories.put((3, 4), rows(2, 1))
    if (child := os.fork()) == 0:
        memories.put((3,), rows(1, 7))
        os._exit(0)
    os.waitpid(child, 0)
    assert memories.take((3,))["bias"].unique().tolist() == [1]
