"""Which node hosts a client: the first that answers for it, as long as it is connected; others are refused by name."""

import logging

import pandas as pd
import pytest
from flwr.app import Context, RecordDict

from strategies.claims import ClaimError, Claims
from tests.faults import run_on
from tests.grids import FakeGrid, run_config


class TestClaims:
    def test_of_other_clients_are_all_settled(self):
        claims = Claims()
        claims.settle(7, range(2, 4))
        claims.settle(8, range(2))
        claims.settle(9, range(5, 5))
        assert [list(claims.of(node, range(6))) for node in (7, 8, 9)] == [[2, 3], [0, 1], []]
        assert claims.refused == {}

    @pytest.mark.parametrize(
        ("claimed", "which"), [(range(3, 9), "client 3"), (range(9), "the clients 2 to 3"), (range(2, 3), "client 2")]
    )
    def test_of_a_client_that_another_node_has_are_refused_by_name(self, claimed, which):
        claims = Claims()
        claims.settle(7, range(2, 4))
        with pytest.raises(ClaimError, match=f"^node 8 is refused: it claims {which}, which node 7 has$"):
            claims.settle(8, claimed)
        assert list(claims.refused) == [8]
        assert list(claims.of(7, range(6))) == [2, 3]
        assert list(claims.of(8, range(6))) == [0, 1, 4, 5]  # those that it may have meant

    def test_are_free_again_when_the_node_that_had_them_is_gone(self):
        claims = Claims()
        claims.settle(7, range(2, 4))
        with pytest.raises(ClaimError):
            claims.settle(8, range(4))
        claims.keep({7, 8})
        assert list(claims.refused) == [8]
        claims.keep({8})
        assert claims.refused == {}
        claims.settle(8, range(4))
        assert list(claims.of(8, range(6))) == [0, 1, 2, 3]

    def test_of_a_node_that_moves_are_those_it_made_last(self):
        claims = Claims()
        claims.settle(7, range(2))
        claims.settle(7, range(2, 4))
        claims.settle(8, range(2))
        assert list(claims.of(7, range(4))) == [2, 3]


class Visited(FakeGrid):
    """A stranger comes, with the place of the first node; who: exchange -> who of 100, 101 and 666 is connected."""

    def __init__(self, config, who):
        flat = config.to_flat()
        super().__init__(2, flat)
        self.all = self.contexts | {666: Context(1, 666, {"partition-id": 0, "num-partitions": 2}, RecordDict(), flat)}
        self.who, self.exchange, self.asked = who, 0, []

    def get_node_ids(self):
        self.contexts = {node: self.all[node] for node in self.who(self.exchange)}
        return list(self.contexts)

    def request(self, messages):
        self.exchange += 1
        self.asked.append(sorted(message.metadata.dst_node_id for message in messages))
        return super().request(messages)


class TestAStrangerWithTheKeysOfAnother:
    @pytest.fixture
    def run(self, tmp_path, caplog):
        def run(who, name="run"):
            config = run_config(tmp_path / name, client_batching="loop")
            grid = Visited(config, who)
            logging.getLogger("flwr").addHandler(caplog.handler)
            try:
                run_on(grid, config)
            finally:
                logging.getLogger("flwr").removeHandler(caplog.handler)
            refusals = {message for message in caplog.messages if message.startswith("node 666 is refused")}
            return grid, pd.read_csv(tmp_path / name / "ledger.csv", keep_default_na=False), refusals

        return run

    def test_changes_nothing_where_the_node_is_there(self, tmp_path, run):
        """Nor what it holds in files, on whose host the stranger is; and is asked once."""
        run(lambda exchange: (100, 101), "alone")
        grid, ledger, refusals = run(lambda exchange: (100, 101, 666) if exchange > 2 else (100, 101))
        assert refusals == {"node 666 is refused: it claims the clients 0 to 2, which node 100 has"}
        assert [666 in asked for asked in grid.asked] == [False] * 3 + [True] + [False] * 2
        assert ledger.participants.tolist() == [5] * 6
        for file in ("weights.safetensors", "metrics.csv", "ledger.csv"):
            assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()

    def test_takes_its_place_when_the_node_is_gone(self, run):
        connected = [(100, 101), (100, 101, 666), *[(101, 666)] * 4]
        grid, ledger, refusals = run(lambda exchange: connected[min(exchange, 5)])
        assert len(refusals) == 1
        assert ledger.participants.tolist() == [5] * 6
        assert grid.asked[-1] == [101, 666]

    def test_is_named_for_clients_that_nobody_hosts(self, run):
        _, ledger, refusals = run(lambda exchange: (100, 666) if exchange else (100,))
        assert len(refusals) == 1
        assert ledger.participants.tolist() == [3] * 6
        assert ledger.left_out.tolist() == ["3 late; 4 late", *["3 twice; 4 twice"] * 5]
