"""The settings of all tests. The package must not be imported here, before the type-checking hook."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

import tests.typecheck  # noqa: F401  the hook looks it up here
from tests.effort import THOROUGH

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in processes that tests start: tests run on all cores at once
os.environ.pop("COLUMNS", None)  # pytest-xdist's, which would break lines
settings.register_profile(
    "laser-fl",
    derandomize=True,
    deadline=None,
    print_blob=True,
    max_examples=100 if THOROUGH else 20,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault
)
settings.load_profile("laser-fl")


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _identity():
    """Set the identity that Flower's messages need, where Flower is installed."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ModuleNotFoundError:
        return
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@pytest.fixture(autouse=True, scope="session")
def _states(tmp_path_factory):
    """Keep what runs leave for later out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _traces():
    """Trace no function except where a test requests `traced`: most runs here are too short for it."""
    from laser_fl.federated import traced

    calls = traced.CALLS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traced, "CALLS", sys.maxsize)
        yield calls


@pytest.fixture
def traced(_traces, monkeypatch):
    """Trace functions as in real runs."""
    monkeypatch.setattr("laser_fl.federated.traced.CALLS", _traces)


@pytest.fixture
def in_this_process(monkeypatch):
    """Let `compare` make its runs one after the other in this process: others take seconds to start."""
    from simulations import side_by_side

    class Here:
        label = ""

        def begin(self, label, config):
            self.label, self.reports = label, []
            self.reports.append(side_by_side._carry_out(side_by_side._run, label, config, self.reports.append))

        def close(self):
            pass

    def listen(lanes):
        reports = [(lane.label, report) for lane in lanes if lane.label for report in lane.reports]
        for lane in lanes:
            lane.label = ""
        return reports

    monkeypatch.setattr(side_by_side, "Lane", Here)
    monkeypatch.setattr(side_by_side, "listen", listen)


@pytest.fixture(scope="session")
def data_dir():
    """Return the folder of the real data sets; tests that need them are skipped without one."""
    path = os.environ.get("LASER_FL_DATA")
    if not path:
        pytest.skip("the real MNIST is needed: set LASER_FL_DATA to a folder that holds MNIST/raw")
    return path
