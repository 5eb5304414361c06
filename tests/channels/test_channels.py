"""The estimate's mean and noise follow the theory, over every channel."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import ncx2

from laser_fl.blocks import norms
from laser_fl.channels import mac, orthogonal
from laser_fl.channels.awgn import Awgn, is_constant
from laser_fl.channels.base import ChannelState
from laser_fl.channels.blind import Blind
from laser_fl.channels.fading import Fading
from laser_fl.config import parse
from laser_fl.errors import PowerError
from laser_fl.registry import CHANNELS
from laser_fl.rng import RandomStreams
from laser_fl.testing import check_channel
from tests.effort import draws
from tests.helpers import context, names, tensors

pytestmark = pytest.mark.shapes

CLIENTS, SIGMA2 = 3, 0.7
SHARES = torch.tensor([0.2, 0.8], dtype=torch.float64)
EVERYONE = tuple(range(CLIENTS))


def signals():
    generator = RandomStreams(5).generator("signals")
    return {
        "a": 4 * torch.randn(CLIENTS, 30, 40, generator=generator),
        "b": torch.randn(CLIENTS, 50, generator=generator),
    }


def transmit(sent, power, round=0, variance=SIGMA2, seed=0, channel=None, averaged=CLIENTS):
    channel = channel or Awgn(variance)
    links = channel.links(EVERYONE, CLIENTS, round, RandomStreams(seed))
    silent = ~links.transmits
    links = links.at(~silent)
    sent = {name: signal[~silent] for name, signal in sent.items()}
    ctx = context({}, clients=averaged, round=round, power=power, noise_variance=variance, seed=seed)
    ctx = replace(
        ctx, noise_std=0.0 if math.isinf(power) else replace(channel, noise_variance=variance).noise_std(CLIENTS)
    )
    budget = torch.where(torch.tensor(math.isinf(power)), torch.inf, power * SHARES)
    return mac.transmit(sent, norms(sent, int((~silent).sum())), budget, links, ctx)


def fading(**options):
    keys = {name.replace("_", "-"): value for name, value in options.items()}
    config = parse({"channel": "fading", "noise-variance": SIGMA2, "gain-threshold": 0} | keys)
    return CHANNELS.build("fading", config)


@pytest.mark.parametrize("name", names(CHANNELS))
class TestEveryChannel:
    def test_keeps_the_promises_of_channels(self, name):
        check_channel(CHANNELS.build(name, parse({"channel": name})))

    def test_a_clients_gain_does_not_depend_on_who_else_is_there(self, name):
        """Only a blind server's does, which combines its antennas for the sum of all."""
        channel = CHANNELS.build(name, parse({"channel": name}))
        few, everyone = (channel.links(clients, 5, 7, RandomStreams(1)).gain for clients in ((1, 4), range(5)))
        assert torch.allclose(few, everyone[[1, 4]]) == (name != "blind")

    def test_nobody_exceeds_the_budget_and_somebody_uses_it(self, name):
        channel = CHANNELS.build(name, parse({"channel": name, "path-loss-exponent": 2, "gain-threshold": 0}))
        for round in range(30):
            _, usage = transmit(signals(), 5.0, round, channel=channel)
            assert usage.client_power.max() <= 5.0 * (1 + 1e-5)
            assert usage.client_power.max() > 5.0 * 0.2  # of the block in which it is the weakest link

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    @pytest.mark.parametrize("power", [1e-30, 1e30])
    def test_the_weakest_link_carries_any_signal_at_any_power(self, name, power, scale):
        """Gains of down to 1e-60 are no numbers of float32; without noise all is heard as at infinite power."""
        keys = {"channel": name, "path-loss-exponent": 10, "cell-radius": 1e6, "gain-threshold": 0}
        channel = CHANNELS.build(name, parse(keys))
        sent = {n: scale * signal for n, signal in signals().items()}
        received, usage = transmit(sent, power, variance=0.0, channel=channel)
        ideal, _ = transmit(sent, math.inf, variance=0.0, channel=channel)
        assert usage.client_power.max() <= power * (1 + 1e-5)
        for n, value in ideal.values.items():
            assert float(value.abs().max()) > 0
            torch.testing.assert_close(received.values[n], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))

    def test_the_same_round_draws_the_same(self, name):
        channel = CHANNELS.build(name, parse({"channel": name}))
        first, again = (transmit(signals(), 1.0, channel=channel)[0].values["a"] for _ in range(2))
        assert torch.equal(first, again)

    def test_a_signal_that_is_zero_everywhere_is_heard_as_exactly_zero(self, name):
        channel = CHANNELS.build(name, parse({"channel": name}))
        sent = signals() | {"b": torch.zeros(CLIENTS, 50)}
        for power in (1.0, math.inf):
            received, _ = transmit(sent, power, channel=channel)
            assert torch.equal(received.values["b"], torch.zeros(50))
            assert received.noise_std["b"] == 0

    def test_the_usage_tells_the_effective_noise(self, name):
        sent, channel = signals(), CHANNELS.build(name, parse({"channel": name, "gain-threshold": 0}))
        received, usage = transmit(sent, 2.0, channel=channel)
        assert usage.channel_uses == usage.values == 1250
        noise = sum(float(received.noise_std[n]) ** 2 * sent[n][0].numel() for n in sent)
        assert usage.noise_energy == pytest.approx(noise)
        still, quiet = transmit(sent, 2.0, variance=0.0, channel=channel)
        assert quiet.signal_energy == pytest.approx(usage.signal_energy)
        energy = sum(float(v.double().square().sum()) for v in still.values.values())
        assert usage.signal_energy == pytest.approx(energy, rel=1e-5)


class TestTheIdealChannel:
    @pytest.mark.parametrize("power", [0.1, 20.0])
    def test_the_estimate_has_the_mean_and_variance_of_theory(self, power):
        """ŝ = mean + (c σ / (k √P_l)) z: over many rounds, for both signals."""
        sent, rounds = signals(), draws(400, 200)
        received = [transmit(sent, power, round)[0] for round in range(rounds)]
        for index, (name, signal) in enumerate(sent.items()):
            errors = torch.stack([h.values[name] - signal.mean(dim=0) for h in received]).double()
            c = max(float(s.double().norm()) for s in signal)
            std = c * math.sqrt(SIGMA2) / (CLIENTS * math.sqrt(power * float(SHARES[index])))
            count = errors.numel()
            assert abs(errors.mean()) < 4 * std / math.sqrt(count)
            assert errors.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * count))
            kurtosis = ((errors / std) ** 4).mean().item()
            assert kurtosis == pytest.approx(3, abs=4 * math.sqrt(96 / count))
            assert received[0].noise_std[name].item() == pytest.approx(std)

    def test_noise_is_independent_between_rounds_and_seeds(self):
        sent = signals()
        first = transmit(sent, 1.0, round=0)[0].values["a"] - sent["a"].mean(dim=0)
        for other in (transmit(sent, 1.0, round=1)[0], transmit(sent, 1.0, seed=1)[0]):
            second = other.values["a"] - sent["a"].mean(dim=0)
            correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
            assert abs(correlation) < 4 / math.sqrt(first.numel())

    def test_infinite_power_gives_the_exact_mean(self):
        sent = signals()
        received, usage = transmit(sent, math.inf)
        for name in sent:
            torch.testing.assert_close(received.values[name], sent[name].mean(dim=0))
            assert received.noise_std[name] == 0
        assert usage.noise_energy == 0


class TestFading:
    MANY = 20000  # clients, each a draw

    def test_without_scattering_and_errors_it_is_the_ideal_channel_bit_for_bit(self):
        ideal, steady = (transmit(signals(), 2.0, channel=c)[0] for c in (Awgn(SIGMA2), fading(rician_k_db=math.inf)))
        for name in ideal.values:
            assert torch.equal(ideal.values[name], steady.values[name])

    def test_a_strong_line_of_sight_approaches_the_ideal_channel(self):
        ideal = transmit(signals(), 2.0)[0].values["a"]
        errors = [
            float((transmit(signals(), 2.0, channel=fading(rician_k_db=k))[0].values["a"] - ideal).norm())
            for k in (0, 20, 40, 60)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-2 * errors[0]

    @pytest.mark.parametrize("k_db", [-math.inf, 0.0, 6.0])
    def test_gains_have_mean_energy_1_and_the_rician_variance_of_it(self, k_db):
        gains, estimates = fading(rician_k_db=k_db).gains(self.MANY, 0, RandomStreams(0))
        assert torch.equal(gains, estimates)
        energy = gains.abs().square()
        k = 10 ** (k_db / 10)
        variance = (1 + 2 * k) / (1 + k) ** 2
        assert energy.mean().item() == pytest.approx(1, abs=4 * math.sqrt(variance / self.MANY))
        assert energy.var().item() == pytest.approx(variance, rel=0.1)

    def test_gains_are_new_each_round_and_independent_between_clients(self):
        channel = fading()
        first, second = (channel.gains(self.MANY, t, RandomStreams(0))[0].real for t in (0, 1))
        assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4 / math.sqrt(self.MANY)
        neighbours = torch.stack([first[:-1], first[1:]])
        assert abs(torch.corrcoef(neighbours)[0, 1]) < 4 / math.sqrt(self.MANY)

    @pytest.mark.parametrize("power", [0.1, 20.0])
    def test_with_perfect_estimates_the_estimate_is_the_mean_under_the_noise_of_the_weakest_link(self, power):
        """ŝ = mean + (σ / (k a_l)) z, a_l = √P_l / max_i(‖s_i‖ / |h_i|), over many rounds."""
        sent, channel = signals(), fading(gain_threshold=0)
        for index, (name, signal) in enumerate(sent.items()):
            normal = []
            for round in range(draws(300, 100)):
                gains = channel.gains(CLIENTS, round, RandomStreams(0))[0].abs()
                strongest = max(float(s.double().norm() / h) for s, h in zip(signal, gains, strict=True))
                std = strongest * math.sqrt(SIGMA2) / (CLIENTS * math.sqrt(power * float(SHARES[index])))
                received = transmit(sent, power, round, channel=channel)[0]
                assert received.noise_std[name].item() == pytest.approx(std)
                normal.append((received.values[name] - signal.mean(dim=0)).double() / std)
            errors = torch.stack(normal)
            assert abs(errors.mean()) < 4 / math.sqrt(errors.numel())
            assert errors.std().item() == pytest.approx(1, rel=4 / math.sqrt(2 * errors.numel()))

    def test_after_inversion_exactly_the_budget_is_spent_by_the_weakest_link(self):
        ones = {"a": torch.ones(CLIENTS, 8)}
        channel = fading(gain_threshold=0)
        for round in range(20):
            links = channel.links(EVERYONE, CLIENTS, round, RandomStreams(0))
            power = torch.tensor([3.0], dtype=torch.float64)
            _, usage = mac.transmit(ones, norms(ones, CLIENTS), power, links, context({}, CLIENTS, round, 3.0))
            gains = channel.gains(CLIENTS, round, RandomStreams(0))[0].abs().square()
            torch.testing.assert_close(usage.client_power, 3.0 * gains.min() / gains, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("variance", [0.05, 0.5])
    def test_errors_of_the_estimates_leave_the_misalignment_of_theory(self, variance):
        """Given ĥ, Re(h/ĥ) is normal with mean 1/(1+v) and variance v / (2 (1+v) |ĥ|²)."""
        channel = fading(csi_error_variance=variance, gain_threshold=0.01)
        links = channel.links(range(self.MANY), self.MANY, 0, RandomStreams(0))
        estimates = channel.gains(self.MANY, 0, RandomStreams(0))[1]
        received = (links.precoding * links.gain)[links.transmits]
        std = (variance / (2 * (1 + variance))) ** 0.5 / estimates.abs()[links.transmits]
        normal = (received - 1 / (1 + variance)) / std
        assert abs(normal.mean()) < 4 / math.sqrt(len(normal))
        assert normal.std().item() == pytest.approx(1, rel=4 / math.sqrt(2 * len(normal)))

    def test_who_is_in_a_deep_fade_stays_silent(self):
        channel = fading(gain_threshold=0.4)
        links = channel.links(range(self.MANY), self.MANY, 0, RandomStreams(0))
        estimates = channel.gains(self.MANY, 0, RandomStreams(0))[1]
        assert torch.equal(links.transmits, estimates.abs().square() >= 0.4)
        assert links.precoding.max() <= 0.4**-0.5 * (1 + 1e-12)
        assert fading(gain_threshold=0).links(range(self.MANY), self.MANY, 0, RandomStreams(0)).transmits.all()

    @pytest.mark.parametrize(
        "options",
        [
            {"gain_threshold": 0.4},
            {"gain_threshold": 0.4, "rician_k_db": 3},
            {"gain_threshold": 0.4, "csi_error_variance": 0.2},
            {"gain_threshold": 0.05, "path_loss_exponent": 2, "cell_radius": 4, "rician_k_db": 0},
        ],
    )
    def test_the_probability_to_speak_is_how_often_clients_do(self, options):
        channel, streams = fading(**options), RandomStreams(3)
        expected = float(channel.transmission_probability(self.MANY, streams).mean())
        speaking = channel.links(range(self.MANY), self.MANY, 0, streams).transmits.double().mean().item()
        assert 0.05 < expected < 0.95
        assert speaking == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / self.MANY))

    def test_what_hardly_varies_is_certain(self):
        options = {"rician_k_db": math.inf, "csi_error_variance": 1e-300}
        assert fading(gain_threshold=2, **options).transmission_probability(2, RandomStreams(0)).tolist() == [0, 0]
        assert fading(gain_threshold=0.9, **options).transmission_probability(2, RandomStreams(0)).tolist() == [1, 1]

    def test_rayleighs_probability_is_exponential(self):
        assert fading(gain_threshold=2).transmission_probability(1, RandomStreams(0)).item() == pytest.approx(
            math.exp(-2)
        )
        assert ncx2.sf(4, 2, 0) == pytest.approx(math.exp(-2))

    def test_path_loss_is_log_distance_over_the_disc(self):
        """r = β^(-1/α); r² is uniform between 1 and R²."""
        path = fading(path_loss_exponent=3, cell_radius=5).path_gains(self.MANY, RandomStreams(0))
        area = path ** (-2 / 3)
        assert area.min() >= 1
        assert area.max() <= 25 * (1 + 1e-12)
        assert area.mean().item() == pytest.approx(13, abs=4 * math.sqrt(24**2 / 12 / self.MANY))
        assert torch.equal(fading(cell_radius=5).path_gains(9, RandomStreams(0)), torch.ones(9, dtype=torch.float64))


class TestBlind:
    @pytest.mark.parametrize("antennas", [1, 8, 64])
    def test_weights_and_noise_have_the_mean_and_variance_of_theory(self, antennas):
        """w of mean 1 and variance (k + 1) / (2M); ν² of mean k / M."""
        clients, rounds = 6, draws(3000, 1000)
        channel = Blind(SIGMA2, antennas)
        drawn = [channel.links(range(clients), clients, t, RandomStreams(0)) for t in range(rounds)]
        weights = torch.stack([links.gain for links in drawn])
        variance = (clients + 1) / (2 * antennas)
        assert weights.mean().item() == pytest.approx(1, abs=5 * math.sqrt(variance / rounds))
        assert weights.var().item() == pytest.approx(variance, rel=0.15)
        noise = sum(links.noise_scale**2 for links in drawn) / rounds
        assert noise == pytest.approx(1, rel=0.1)
        assert channel.noise_std(clients) ** 2 == pytest.approx(SIGMA2 * clients / antennas)

    def test_a_transmission_is_that_of_all_antennas_combined(self):
        """Antenna by antenna in complex numbers, without noise."""
        antennas, sent = 5, signals()
        streams = RandomStreams(0)
        received, _ = transmit(sent, 2.0, variance=0.0, channel=Blind(0.0, antennas))
        h = torch.randn(CLIENTS, antennas, generator=streams.generator("blind fading", 0), dtype=torch.complex128)
        expected = torch.zeros(30, 40, dtype=torch.complex128)
        for m in range(antennas):
            y = sum(h[i, m] * sent["a"][i] for i in range(CLIENTS))
            expected += h[:, m].sum().conj() * y / antennas
        torch.testing.assert_close(received.values["a"], (expected.real / CLIENTS).float(), rtol=1e-4, atol=1e-4)

    def test_many_antennas_approach_the_ideal_channel(self):
        """The error against its estimate at the noise k/M that is left; it falls as 1/√M."""
        errors = []
        for antennas in (6, 600, 60000):
            channel, noise = Blind(SIGMA2, antennas), SIGMA2 * CLIENTS / antennas
            error = 0.0
            for round in range(20):
                blind = transmit(signals(), 2.0, round, channel=channel)[0].values["a"]
                ideal = transmit(signals(), 2.0, round, variance=noise)[0].values["a"]
                error += float((blind - ideal).norm() / signals()["a"].mean(dim=0).norm()) / 20
            errors.append(error)
        assert errors[0] > 5 * errors[1] > 25 * errors[2]
        assert errors[2] < 0.01


class TestDigitalLinks:
    def test_equal_links_share_the_capacity_of_the_multiple_access_channel(self):
        """s/(2k) log2(1 + kP/(sσ²)), the symmetric rate."""
        bits = orthogonal.capacity(ChannelState.ideal(8), 500, 90.0, 0.5)
        expected = 500 / 16 * math.log2(1 + 8 * 90 / (500 * 0.5))
        assert bits.tolist() == pytest.approx([expected] * 8)

    def test_silent_clients_neither_send_nor_take_a_turn(self):
        gains = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
        bits = orthogonal.capacity(ChannelState(gains, gains, gains), 100, 10.0, 1.0)
        assert bits.tolist() == pytest.approx([0, 25 * math.log2(1 + 0.2), 25 * math.log2(1 + 0.8)])

    def test_without_noise_everything_fits(self):
        assert orthogonal.capacity(ChannelState.ideal(2), 10, 1.0, 0.0).tolist() == [math.inf] * 2
        assert orthogonal.capacity(ChannelState.ideal(2), 10, math.inf, 1.0).tolist() == [math.inf] * 2

    def test_a_message_that_does_not_fit_is_refused(self):
        ctx = context(clients=2)
        payload = torch.tensor([150.0, 150.1], dtype=torch.float64)
        with pytest.raises(PowerError, match=r"round 1: client 1 sent 150\.1 bits over a link that carries 150\.0"):
            orthogonal.deliver(tensors(clients=2), payload, 10, ctx)


@pytest.mark.parametrize("channel", [Blind(antennas=4), Fading(path_loss_exponent=2.0)])
def test_a_channel_of_many_clients_draws_a_link_whoever_else_takes_part(channel, monkeypatch):
    """And of as many statistics as a channel of few, whose links are drawn together."""
    few = channel.links(range(4000), 4000, 3, RandomStreams(0))
    monkeypatch.setattr("laser_fl.channels.blind.MANY", 0)
    monkeypatch.setattr("laser_fl.channels.fading.MANY", 0)
    alone, among = (channel.links(some, 4000, 3, RandomStreams(0)) for some in ([7], [2, 7, 9]))
    assert (alone.snr_gain[0], alone.precoding[0]) == (among.snr_gain[1], among.precoding[1])
    assert not torch.equal(alone.snr_gain, channel.links([7], 4000, 4, RandomStreams(0)).snr_gain)
    many = channel.links(range(4000), 4000, 3, RandomStreams(0))
    assert many.snr_gain.mean() == pytest.approx(float(few.snr_gain.mean()), rel=0.1)


class Turns(Awgn):
    def links(self, participants, clients, round, streams):
        return super().links(participants[round % 2 :: 2], clients, round, streams)


class Named(Awgn):
    pass


def test_links_are_drawn_once_a_run_only_where_they_are_those_of_awgn():
    assert [is_constant(channel) for channel in (Awgn(), Named(), Turns(), Fading())] == [True, True, False, False]
