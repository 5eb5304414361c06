"""Shards, epochs and batches."""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.text import Text
from laser_fl.errors import ConfigError
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.registry import PARTITIONS
from simulations.progress import Reporter
from strategies.server_app import _Log
from tests.helpers import names, tensors

pytestmark = pytest.mark.shapes


def sampler(examples=23, clients=4, batch=4, hosted=None, seed=0):
    config = parse({"clients": clients, "batch-size": batch, "seed": seed})
    return Examples(torch.zeros(examples, 1), torch.zeros(examples)).sampler(config, hosted or range(clients))


def epoch(sampler, number):
    rounds = sampler.rounds_per_epoch
    return torch.cat([sampler.batch(number * rounds + place) for place in range(rounds)], dim=1)


def test_shards_are_disjoint_cover_everything_and_stay():
    for number in (0, 1, 5):
        seen = [set(row.tolist()) for row in epoch(sampler(), number)]
        assert [len(s) for s in seen] == [6, 6, 6, 5]
        assert set.union(*seen) == set(range(23))
        assert seen == [set(row.tolist()) for row in epoch(sampler(), 0)]


def test_an_epoch_has_the_largest_shards_rounds_and_a_short_last_batch():
    assert sampler().rounds_per_epoch == 2
    assert [sampler().batch(t).shape[1] for t in range(4)] == [4, 2, 4, 2]


def test_a_smaller_shard_wraps_around():
    row = epoch(sampler(), 0)[3].tolist()
    assert row[5] == row[0]


def test_epochs_shuffle_inside_the_shards():
    assert not torch.equal(epoch(sampler(), 0), epoch(sampler(), 1))


def test_a_client_draws_the_same_batches_wherever_it_is_hosted():
    everybody = epoch(sampler(), 3)
    assert torch.equal(epoch(sampler(hosted=range(2, 4)), 3), everybody[2:])


def test_another_seed_deals_other_shards():
    assert not torch.equal(epoch(sampler(), 0), epoch(sampler(seed=1), 0))


def test_more_clients_than_examples_are_refused():
    with pytest.raises(ConfigError, match="clients: must be at most the 3 training examples, got 4"):
        sampler(examples=3)


LABELS = torch.arange(10).repeat_interleave(100)


def deal(partition, seed=0, **options):
    keys = {name.replace("_", "-"): value for name, value in options.items()}
    config = parse({"clients": 8, "partition": partition, "seed": seed} | keys)
    return PARTITIONS.build(partition, config)(LABELS, config)


@pytest.mark.parametrize("partition", names(PARTITIONS))
class TestEveryPartition:
    def test_gives_each_client_examples_of_its_own(self, partition):
        parts = deal(partition)
        everything = torch.cat(list(parts)).tolist()
        assert len(parts) == 8
        assert all(len(part) > 0 for part in parts)
        assert len(set(everything)) == len(everything)
        assert len(everything) >= 0.95 * len(LABELS)  # shards leave the rest of an uneven division out

    def test_is_fixed_by_the_seed(self, partition):
        first, again, other = deal(partition), deal(partition), deal(partition, seed=1)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_is_what_clients_take_their_batches_from(self, partition):
        config = parse({"clients": 8, "partition": partition, "batch-size": 8})
        sampler = Examples(torch.zeros(1000, 1), LABELS, groups=LABELS).sampler(config, range(8))
        for part, row in zip(deal(partition), epoch(sampler, 0), strict=True):
            assert set(row.tolist()) == set(part.tolist())


def labels_held(parts):
    return [len(LABELS[part].unique()) for part in parts]


def test_shards_hold_few_labels_and_a_dirichlets_alpha_says_how_uneven_it_is():
    assert max(labels_held(deal("shards", shards_per_client=1))) <= 3
    even, uneven = (deal("dirichlet", dirichlet_alpha=alpha) for alpha in (1000, 0.1))
    assert min(labels_held(even)) == 10
    assert sum(labels_held(uneven)) < 60
    assert min(labels_held(deal("iid"))) == 10


def test_more_pieces_than_examples_are_refused():
    with pytest.raises(
        ConfigError, match=r"shards-per-client: must make at most 1000 pieces, .*, got 200 \(1600 pieces"
    ):
        deal("shards", shards_per_client=200)


def test_a_partition_that_leaves_a_client_without_examples_is_refused():
    """The line names the keys that are to be changed."""
    rule = "dirichlet-alpha: must be large enough to leave each of 800 clients one of 1000 examples, or clients fewer"
    with pytest.raises(ConfigError, match=rf"^{rule}, or empty-clients=skip, got 0\.01$"):
        dealt(clients=800, partition="dirichlet", dirichlet_alpha=0.01)


@pytest.mark.parametrize("partition", names(PARTITIONS))
def test_more_clients_than_examples_are_refused_in_every_partition(partition):
    with pytest.raises(ConfigError, match=r"^clients: must be at most the 1000 training examples, got 1001$"):
        dealt(clients=1001, partition=partition)


def dealt(**options):
    config = parse({name.replace("_", "-"): value for name, value in options.items()})
    return Examples(torch.zeros(len(LABELS), 1), LABELS).sampler(config, range(0))


class TestUnevenShards:
    def schedule(self, **changes):
        uneven = {"clients": 8, "partition": "dirichlet", "dirichlet_alpha": 0.1, "batch_size": 25, "epochs": 3}
        sampler = dealt(**uneven | changes)
        config = parse({name.replace("_", "-"): value for name, value in (uneven | changes).items()})
        return RoundSchedule.of(config, sampler.rounds_per_epoch, sampler.rounds_per_even_epoch)

    def test_make_a_longer_run_than_even_ones_and_it_says_so(self):
        longer = -(-max(map(len, deal("dirichlet", dirichlet_alpha=0.1))) // 25)
        assert longer > 5  # what an eighth of 1,000 examples takes, 25 at a time
        assert self.schedule().rounds == 3 * longer
        assert self.schedule().notice == (
            f"an epoch has {longer} rounds, which the client with most examples needs, and the run {3 * longer}, "
            "not 15 as if all had equally many: compare it at equal rounds or energy"
        )

    def test_are_not_worth_a_word_where_the_run_is_as_long_as_with_even_ones(self):
        assert self.schedule(rounds=40).notice == ""
        assert self.schedule(batch_size=1000).notice == ""
        assert self.schedule(partition="iid").notice == ""
        assert self.schedule(partition="shards").notice == ""

    def test_are_told_once_where_a_run_starts_on_the_terminal_and_in_flowers_log(self, monkeypatch):
        server = Server(parse({"clients": 8}), tensors(clients=None), self.schedule())
        reports, log = [], []
        monkeypatch.setattr("strategies.server_app.log", lambda level, *words: log.append(words))
        for callback in (Reporter("laser", reports.append), _Log()):
            callback.on_begin(server)
        assert [report.warning for report in reports] == [server.schedule.notice]
        assert log == [("%s", server.schedule.notice)]


class TestWindowsOfAText:
    TEXT = Text(torch.arange(1000, dtype=torch.int32), context=9)

    def sampler(self, hosted=None, **options):
        config = parse({"clients": 4, "batch-size": 5, "accumulation-steps": 2} | options)
        return self.TEXT.sampler(config, hosted or range(4))

    def test_begin_at_random_in_each_clients_own_stretch_and_end_in_it(self):
        starts = torch.cat([self.sampler().batch(t) for t in range(300)], dim=1)
        for client, row in enumerate(starts):
            assert row.min() == client * 250
            assert row.max() == client * 250 + 240
        assert not torch.equal(starts[0, :10], starts[0, 10:20])

    def test_are_the_same_wherever_a_client_is_hosted(self):
        assert torch.equal(self.sampler(range(2, 4)).batch(7), self.sampler().batch(7)[2:])
        assert torch.equal(self.sampler().batch(7, (1, 3)), self.sampler().batch(7)[[1, 3]])

    def test_are_followed_by_the_tokens_that_are_to_be_guessed(self):
        inputs, targets = self.TEXT.at(torch.tensor([[3, 8], [20, 990]]))
        assert inputs[1, 1].tolist() == list(range(990, 999))
        assert torch.equal(targets, inputs + 1)

    def test_fill_an_epoch(self):
        assert self.sampler().rounds_per_epoch == 3  # 25 windows of 10 tokens in 250, ten a round

    def test_an_evaluation_guesses_every_token_of_the_text_but_the_first_once(self):
        targets = torch.cat([t.flatten() for _, t in self.TEXT.batches(0, 7)])
        assert targets.tolist() == list(range(1, 1000))
        for count in (4, 50, 110):
            starts = torch.cat([inputs[:, 0] for inputs, _ in self.TEXT.batches(count, 7)])
            assert len(starts) == count
            assert (starts % 9 == 0).all()
            assert starts[-1] // 9 == 111 * (count - 1) // count  # evenly spread, also over its end
            assert (starts.diff() >= 111 // count * 9).all()
        assert torch.cat([t.flatten() for _, t in self.TEXT.batches(111, 7)]).tolist() == list(range(1, 1000))
        assert len(self.TEXT) == 111

    def test_have_no_labels_to_go_by(self):
        with pytest.raises(ConfigError, match="partition: must be iid for a text, got 'shards'"):
            self.sampler(partition="shards")

    def test_a_text_shorter_than_the_context_is_refused(self):
        with pytest.raises(ConfigError, match="context: must be below the text's 9 tokens, got 9"):
            Text(torch.arange(9), context=9).sampler(parse({"clients": 1}), range(1))
        with pytest.raises(ConfigError, match="clients: must be at most the 3 training examples, got 4"):
            Text(torch.arange(39), context=9).sampler(parse({"clients": 4}), range(4))


def test_the_orders_of_many_clients_are_drawn_at_once(monkeypatch):
    """Each in an order of its own, new in each epoch, whoever else takes part."""
    monkeypatch.setattr("laser_fl.data.sampler.MANY", 3)
    many = sampler(examples=4 * 720 + 1, clients=4, batch=1000)
    everybody, again = epoch(many, 0), epoch(many, 1)
    shards = [set(row.tolist()) for row in everybody]
    assert [len(shard) for shard in shards] == [721, 720, 720, 720]
    assert everybody[1, 720] == everybody[1, 0]
    assert [set(row.tolist()) for row in again] == shards
    assert not torch.equal(everybody, again)
    assert torch.equal(many.batch(0, (1, 3)), everybody[[1, 3]])
    places = torch.stack([row[:720].argsort() for row in (*everybody, *again)]).double()
    assert torch.corrcoef(places).fill_diagonal_(0).abs().max() < 0.2
