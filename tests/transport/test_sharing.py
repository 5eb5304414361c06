"""What is large is shared between the processes of a host, not shipped."""

import pandas as pd
import pytest
from flwr.app import Context, RecordDict

from clients.client_app import app as client_app
from clients.node import reply
from laser_fl.transport.messages import handle_in
from simulations.engines import in_process
from strategies.server_app import app as server_app
from tests.effort import pairs
from tests.grids import FakeGrid, ForgetfulGrid, ScatteredGrid, WeighingGrid, run_config
from tests.helpers import names

SHARED = {
    "plain": {"strategy": "laser"},
    "two-phase": {"strategy": "laser", "factor-exchange": "two-phase"},
    "drifting copies": {"strategy": "laser", "downlink": "update", "downlink-power": 1e4},
    "compressed": {"strategy": "laser", "downlink": "compressed", "momentum": 0.9},
    "compressed two-phase": {"factor-exchange": "two-phase", "downlink": "compressed", "optimizer": "adamw"},
    "absences": {"strategy": "random-k", "fraction": 0.6, "downlink": "compressed"},
}


class TestWhatIsLarge:
    """It lies in mapped files; only nodes of other hosts are sent it."""

    def same_as_in_process(self, tmp_path, options, grid):
        options = options | {"client_batching": "loop"}
        config = run_config(tmp_path / "grid", **options)
        server_app(grid(config.to_flat()), Context(1, 0, {}, RecordDict(), config.to_flat()))
        in_process.run(run_config(tmp_path / "direct", **options), tmp_path / "direct")
        for file in ("metrics.csv", "weights.safetensors"):
            assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
        ledgers = [pd.read_csv(tmp_path / run / "ledger.csv") for run in ("grid", "direct")]
        pd.testing.assert_frame_equal(*(ledger.drop(columns="downlink_floats") for ledger in ledgers))
        return ledgers[0].downlink_floats - ledgers[1].downlink_floats

    @pytest.mark.parametrize(
        ("case", "far"), pairs(SHARED, [lambda t: [101], lambda t: [100 + t % 3], lambda t: range(100, 103)])
    )
    def test_nodes_on_other_hosts_give_the_same_run(self, tmp_path, monkeypatch, case, far):
        """From the start, or in turn, as in a pool of actors on several hosts."""
        more = self.same_as_in_process(tmp_path, SHARED[case], lambda flat: ScatteredGrid(3, flat, monkeypatch, far))
        assert (more == 0).all()  # where a node runs is not the ledger's business

    @pytest.mark.parametrize("case", ["compressed", "compressed two-phase", "absences"])
    def test_a_node_that_lost_its_replica_is_told_everything(self, tmp_path, case):
        grids = []

        def forgetful(flat):
            grids.append(ForgetfulGrid(3, flat))
            return grids[0]

        more = self.same_as_in_process(tmp_path, SHARED[case], forgetful)
        assert more[grids[0].forgets] >= 7850
        assert (more.drop(grids[0].forgets) == 0).all()

    @pytest.mark.parametrize("case", names(SHARED))
    def test_messages_and_contexts_carry_no_tensors_but_reports(self, tmp_path, case):
        config = run_config(tmp_path / "run", **SHARED[case])
        grid = WeighingGrid(2, config.to_flat())
        server_app(grid, Context(1, 0, {}, RecordDict(), config.to_flat()))
        assert grid.heaviest < 700

    def test_a_second_run_of_the_same_nodes_starts_from_nothing(self, tmp_path):
        grid = FakeGrid(2, run_config(tmp_path / "0", **SHARED["compressed"]).to_flat())
        for run in "01":
            config = run_config(tmp_path / run, **SHARED["compressed"]).to_flat()
            server_app(grid, Context(1, 0, {}, RecordDict(), config))
        files = [(tmp_path / run / "weights.safetensors").read_bytes() for run in "01"]
        assert files[0] == files[1]

    def test_a_file_that_the_clients_own_code_misses_is_its_own_error(self, tmp_path):
        def careless(message, context):
            def respond(broadcast, memory):
                raise FileNotFoundError("my data")

            return reply(message, context, respond)

        config = run_config(tmp_path / "run").to_flat()
        with pytest.raises(FileNotFoundError, match="my data"):
            server_app(FakeGrid(2, config, careless), Context(1, 0, {}, RecordDict(), config))

    def test_the_files_are_gone_when_the_run_is_over_or_has_failed(self, tmp_path):
        boards = []

        def note(message, context):
            boards.append(handle_in(message.content).folder)
            if len(boards) > 6:
                raise RuntimeError("enough")
            return client_app(message, context)

        for rounds in (2, 6):
            config = run_config(tmp_path / str(rounds), rounds=rounds).to_flat()
            grid = FakeGrid(2, config, note)
            if rounds == 2:
                server_app(grid, Context(1, 0, {}, RecordDict(), config))
            else:
                with pytest.raises(RuntimeError, match="enough"):
                    server_app(grid, Context(1, 0, {}, RecordDict(), config))
        assert len(set(boards)) == 2
        assert not any(shared_memory.exists() for shared_memory in boards)
