"""Free memory goes back to the system where it is much."""

import psutil
import pytest
import torch

from laser_fl.federated import heap

MEGABYTE = 2**20


@pytest.mark.skipif(heap._library() is None, reason="the C library does not count free memory")
def test_free_memory_above_a_bound_is_given_back():
    blocks = [torch.ones(2**14) for _ in range(512)]
    last = torch.ones(2**14)  # above them, so that the heap does not shrink by itself
    del blocks
    before = psutil.Process().memory_info().rss
    heap.give_back(most=2**40)
    heap.give_back()  # as much may stay in any case
    assert psutil.Process().memory_info().rss > before - MEGABYTE
    heap.give_back(most=MEGABYTE)
    assert psutil.Process().memory_info().rss < before - 25 * MEGABYTE
    assert last.all()
