"""Settings of all tests. The package must not be imported here, before the type-checking hook."""

import os

import pytest
from hypothesis import settings

import tests.typecheck  # noqa: F401  the hook looks it up here

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start, too: tests run on all cores at once
settings.register_profile("laser-fl", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("laser-fl")


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _identity():
    """Flower's messages are made by somebody."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(scope="session")
def data_dir():
    """Where the real data sets lie; tests that need them are skipped elsewhere."""
    path = os.environ.get("LASER_FL_DATA")
    if not path:
        pytest.skip("the real MNIST is needed: set LASER_FL_DATA to a folder that holds MNIST/raw")
    return path
