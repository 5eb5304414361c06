"""Partitions of unequal and of natural clients, clients without examples, and examples that are held out."""

import numpy as np
import pytest
import torch

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.partition import balanced_dirichlet
from laser_fl.data.sampler import deal, held_out
from laser_fl.data.task import Text
from laser_fl.errors import ConfigError
from laser_fl.registry import PARTITIONS

pytestmark = pytest.mark.shapes
LABELS = torch.arange(10).repeat_interleave(100)


def config(clients=8, **options):
    return parse({"clients": clients} | {name.replace("_", "-"): value for name, value in options.items()})


def sizes(parts):
    return [len(part) for part in parts]


def refused(line, *given):
    with pytest.raises(ConfigError) as refusal:
        deal(*given)
    assert str(refusal.value) == line


class TestBalancedDirichlet:
    def parts(self, alpha, clients=7, labels=LABELS, seed=0):
        return balanced_dirichlet(labels, config(clients, seed=seed), alpha)

    @pytest.mark.parametrize("alpha", [1e-300, 0.01, 0.5, 1e30])
    def test_deals_every_example_once_and_equally_many_to_each_client_but_for_one(self, alpha):
        parts = self.parts(alpha)
        assert sorted(sizes(parts)) == [142] * 1 + [143] * 6
        assert torch.cat(list(parts)).sort().values.tolist() == list(range(1000))

    def test_gives_each_client_the_frequencies_of_the_labels_where_alpha_is_large(self):
        labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 100)
        counts = torch.stack([labels[part].bincount(minlength=3) for part in self.parts(1e6, 10, labels)])
        for column, share in enumerate((0.7, 0.2, 0.1)):  # draws without replacement vary less than binomial ones
            assert (counts[:, column] - 100 * share).abs().max() < 4 * (100 * share * (1 - share)) ** 0.5

    def test_leaves_each_client_few_labels_where_alpha_is_small(self):
        held = {
            alpha: np.mean([len(LABELS[part].unique()) for part in self.parts(alpha)]) for alpha in (0.01, 0.5, 100)
        }
        assert held[0.01] < 4 < held[0.5] < held[100] == 10

    def test_draws_proportions_with_the_spread_of_a_dirichlet(self):
        """Var of a share of Dir(α, ..., α) with L labels: (L - 1) / (L² (L α + 1)); sizes make no difference to it."""
        labels = torch.arange(4).repeat(40_000)
        parts = self.parts(2.0, 400, labels)
        shares = torch.stack([labels[part].bincount(minlength=4) for part in parts]) / 400
        spread = 3 / (16 * 9) + 0.25 * 0.75 / 400 * 8 / 9  # of the proportions, and of the draws by them
        assert shares.var(dim=0).mean().item() == pytest.approx(spread, rel=0.15)
        assert shares.sum(dim=1).tolist() == pytest.approx([1.0] * 400)

    def test_makes_no_difference_between_early_and_late_clients(self):
        """Were they to draw one after the other, the last would get what is left, and all the same."""
        labels = torch.arange(10).repeat(1000)
        top = torch.tensor(
            [
                [labels[part].bincount(minlength=10).max() / 100 for part in self.parts(0.1, 100, labels, seed)]
                for seed in range(5)
            ]
        )
        assert abs(top[:, :20].mean() - top[:, -20:].mean()) < 0.1
        assert top.mean() > 0.5

    def test_needs_labels(self):
        line = "partition: balanced-dirichlet needs one label per example, got targets [1000, 2]"
        refused(line, torch.stack([LABELS, LABELS], dim=1), config(partition="balanced-dirichlet"))

    def test_takes_labels_that_do_not_count_from_0(self):
        parts = self.parts(0.5, 5, LABELS * 1000 - 7)
        assert sizes(parts) == [200] * 5


@pytest.mark.parametrize("partition", ["dirichlet", "balanced-dirichlet", "shards"])
def test_partitions_by_label_need_integers(partition):
    source = "a Dataset that is read batch by batch names them by an attribute targets"
    line = f"partition: {partition} needs integer labels ({source}), got float32"
    refused(line, torch.zeros(100), config(partition=partition))


class TestByColumn:
    GROUPS = torch.tensor([2, 0, 1, 1, 0, 2, 2, 3])

    def deal(self, clients, groups=GROUPS, seed=0):
        labels = torch.zeros(len(self.GROUPS), 3)
        return deal(labels, config(clients, partition="by-column", seed=seed), groups)

    def test_makes_a_client_of_each_group(self):
        assert [part.tolist() for part in self.deal(4)] == [[1, 4], [2, 3], [0, 5, 6], [7]]

    def test_deals_whole_groups_at_random_where_there_are_more_than_clients(self):
        dealt = set()
        for seed in range(8):
            parts = self.deal(2, seed=seed)
            held = [set(self.GROUPS[part].tolist()) for part in parts]
            assert [len(one) for one in held] == [2, 2]
            assert held[0] | held[1] == {0, 1, 2, 3}
            assert sum(sizes(parts)) == 8
            dealt.add(frozenset(held[0]))
        assert len(dealt) > 1

    def test_refuses_fewer_groups_than_clients(self):
        refused(
            "clients: must be at most the 4 groups of the data, or take empty-clients=skip, got 5",
            *self.given(5, self.GROUPS),
        )

    def test_leaves_the_last_clients_empty_where_these_are_skipped(self):
        groups = self.GROUPS.clamp(max=1)
        parts = deal(torch.zeros(8), config(3, partition="by-column", empty_clients="skip"), groups)
        assert sizes(parts) == [2, 6, 0]

    def test_refuses_data_without_groups_in_a_line_that_says_how_to_name_them(self):
        ways = "by client-column, or as a list of data sets, one per client"
        line = f"partition: by-column needs data that name each example's client ({ways}), got none"
        refused(line, *self.given(4, None))

    @pytest.mark.parametrize(
        ("groups", "got"), [(GROUPS.double(), "float64 [8]"), (-GROUPS, "int64 [8]"), (GROUPS[:6], "int64 [6]")]
    )
    def test_refuses_other_groups(self, groups, got):
        line = f"partition: by-column needs 8 groups of type int64 from 0, one per example, got {got}"
        refused(line, *self.given(4, groups))

    def test_is_not_the_only_one_that_can_have_groups(self):
        """A partition of one's own goes by groups where its first argument has that name."""

        @PARTITIONS.register("by-parity")
        def by_parity(groups, config):
            return [torch.nonzero(groups % 2 == client).flatten() for client in range(config.clients)]

        parts = deal(torch.zeros(8), config(2, partition="by-parity"), self.GROUPS)
        assert sizes(parts) == [5, 3]

    def given(self, clients, groups):
        return torch.zeros(8), config(clients, partition="by-column"), groups


class TestEmptyClients:
    def test_are_left_by_a_dirichlet_draw_that_is_not_repeated(self):
        parts = deal(LABELS, config(60, partition="dirichlet", dirichlet_alpha=0.01, empty_clients="skip"))
        assert sizes(parts).count(0) > 10
        assert torch.cat(list(parts)).sort().values.tolist() == list(range(1000))

    def test_change_nothing_where_there_are_none(self):
        for partition in ("iid", "shards", "balanced-dirichlet"):
            skipping, refusing = (
                deal(LABELS, config(partition=partition, empty_clients=way)) for way in ("skip", "refuse")
            )
            assert all(torch.equal(a, b) for a, b in zip(skipping, refusing, strict=True))

    def test_have_no_batches(self):
        options = {"partition": "by-column", "empty_clients": "skip", "batch_size": 3}
        data = Examples(torch.zeros(6, 1), torch.zeros(6), torch.tensor([0, 2, 2, 2, 2, 3]))
        sampler = data.sampler(config(4, **options), range(4))
        assert list(sampler.sizes) == [1, 0, 4, 1]
        assert sampler.rounds_per_epoch == 2
        rows = sampler.batch(0, (0, 3))
        assert rows.tolist() == [[0, 0, 0], [5, 5, 5]]
        assert torch.equal(sampler.batch(0), sampler.batch(0, (0, 2, 3)))
        alone = data.sampler(config(4, **options), range(2, 4))
        assert torch.equal(alone.batch(5, (2,)), sampler.batch(5, (2,)))
        data.sampler(config(4, **options), range(1, 2))  # a node without any holder only waits

    def test_cannot_be_all(self):
        @PARTITIONS.register("to-nobody")
        def to_nobody(labels, config):
            return [labels[:0]] * config.clients

        line = "partition: must leave an example to a client, got 'to-nobody'"
        refused(line, LABELS, config(partition="to-nobody", empty_clients="skip"))


class TestHeldOutExamples:
    GROUPS = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 2, 10, 100]))

    def divided(self, share, seed=0):
        given = torch.zeros(113), config(4, partition="by-column", evaluate_clients=share, seed=seed), self.GROUPS
        return deal(*given), held_out(*given)

    def test_are_the_share_of_each_client_that_keeps_at_least_one(self):
        training, held = self.divided(0.3)
        assert sizes(held) == [0, 1, 3, 30]
        assert sizes(training) == [1, 1, 7, 70]
        assert sizes(self.divided(0.99)[0]) == [1, 1, 1, 1]

    def test_are_the_clients_own_and_not_trained_on(self):
        whole = self.divided(0)[0]
        for own, *parts in zip(whole, *self.divided(0.3), strict=True):
            assert torch.cat(parts).sort().values.tolist() == own.tolist()

    def test_are_fixed_by_the_seed(self):
        first, again, other = (self.divided(0.3, seed)[1][3].tolist() for seed in (0, 0, 1))
        assert first == again != other
        assert first != sorted(first)

    def test_are_none_by_default(self):
        training, held = self.divided(0.0)
        plain = PARTITIONS.build("by-column", None)(self.GROUPS, config(4))
        assert sizes(held) == [0] * 4
        assert all(torch.equal(a, b) for a, b in zip(training, plain, strict=True))

    def test_do_not_count_for_an_epoch_nor_for_the_clients_sizes(self):
        data = Examples(torch.zeros(1000, 1), LABELS)
        for share, rounds, size in ((0.0, 5, 250), (0.2, 4, 200)):
            sampler = data.sampler(config(4, batch_size=50, evaluate_clients=share), range(4))
            assert (sampler.rounds_per_epoch, sampler.rounds_per_even_epoch) == (rounds, rounds)
            assert list(sampler.sizes) == [size] * 4

    def test_are_of_no_text(self):
        with pytest.raises(ConfigError, match=r"^evaluate-clients: must be 0 for a text, got 0\.1$"):
            Text(torch.arange(1000), context=9).sampler(config(4, evaluate_clients=0.1), range(4))


def test_the_clients_of_a_text_hold_equally_much():
    assert list(Text(torch.arange(1000), context=9).sampler(config(4), range(0)).sizes) == [25] * 4
