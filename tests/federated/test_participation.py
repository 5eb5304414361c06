"""Who is there, who speaks, what they hold: nothing is lost and nothing is counted twice."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from laser_fl.blocks import blocks_of, place
from laser_fl.channels.base import ChannelState
from laser_fl.channels.downlink import Downlink, noise_std, receive
from laser_fl.channels.mac import apart, draw_noise
from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.client import ClientState
from laser_fl.federated.participation import draw_participants
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import aggregate_updates, encode_update
from laser_fl.rng import RandomStreams
from laser_fl.schemes import sketch
from laser_fl.schemes.indices import draw_indices
from simulations.engines import in_process
from simulations.progress import Reporter
from tests import oracle
from tests.effort import pairs
from tests.grids import run_on_grid
from tests.helpers import SHAPES, VARIANTS, answer, context, names, scheme, tensors, zero_losses
from tests.schemes.test_oracle import TWINS, as_matrix, columns, exactly_orthonormal, reshaped

CLIENTS, ROUNDS = 6, 12
REMEMBERING = [name for name in VARIANTS if scheme(name).traits.error_feedback]
FORGETTING = [name for name in VARIANTS if not scheme(name).traits.error_feedback]


class TestWhoTakesPart:
    def test_the_fraction_is_asked_and_drawn_anew_each_round(self):
        drawn = [draw_participants(10, 0.3, 0.0, t, RandomStreams(0)) for t in range(400)]
        assert all(len(set(participants)) == 3 and list(participants) == sorted(participants) for participants in drawn)
        counts = torch.tensor([client for participants in drawn for client in participants]).bincount(minlength=10)
        assert (counts - 120).abs().max() < 4 * math.sqrt(400 * 0.3 * 0.7)

    def test_at_least_one_is_asked_and_at_most_all(self):
        assert len(draw_participants(10, 0.01, 0.0, 0, RandomStreams(0))) == 1
        assert draw_participants(10, 1.0, 0.0, 0, RandomStreams(0)) == tuple(range(10))

    def test_dropouts_have_the_rate_that_was_asked_for(self):
        there = sum(len(draw_participants(10, 1.0, 0.25, t, RandomStreams(0))) for t in range(400))
        assert there == pytest.approx(3000, abs=4 * math.sqrt(4000 * 0.25 * 0.75))


def silence(ctx, transmitters):
    bits = tuple(ctx.bits[0] for _ in transmitters)
    return replace(ctx, transmitters=tuple(transmitters), bits=bits)


class TestSilence:
    @pytest.mark.parametrize("name", REMEMBERING)
    def test_a_silent_client_keeps_its_gradient_and_the_mean_is_over_all(self, name):
        chosen, gradients, memory = scheme(name), tensors(), tensors(seed=1)
        speaking = [0, 2]
        ctx = context(power=math.inf)
        shared = chosen.init(ctx.blocks, ctx.streams)
        corrected = {n: memory[n] + gradients[n] for n in SHAPES}
        for phase in range(len(chosen.traits.phase_shares)):
            ctx = silence(context(power=math.inf, phase=phase), speaking)
            shared = {n: t.double() for n, t in shared.items()}
            told = Broadcast(chosen, shared, ctx)
            client_update, memory = encode_update(told, gradients if phase == 0 else None, zero_losses(), memory)
            result = aggregate_updates(client_update, shared, chosen, ChannelState.ideal(2), TRAINED, ctx, 100)
            shared = result.shared
        for n in SHAPES:
            assert torch.equal(memory[n][[1, 3]], corrected[n][[1, 3]])
            kept = corrected[n][speaking] - memory[n][speaking]
            if name.startswith("a-dsgd") or "one-shot" in name:
                continue  # their updates only estimate what was kept
            torch.testing.assert_close(result.update[n], kept.sum(dim=0) / 4)

    @pytest.mark.parametrize("name", FORGETTING)
    def test_without_memory_it_is_dropped_and_the_mean_is_over_the_speakers(self, name):
        chosen, gradients = scheme(name), tensors()
        few = silence(replace(context(power=math.inf), averaged=2), [0, 2])
        client_update, memory = encode_update(Broadcast(chosen, {}, few), gradients, zero_losses(), {})
        result = aggregate_updates(client_update, {}, chosen, ChannelState.ideal(2), TRAINED, few)
        alone = replace(context(clients=2, power=math.inf))
        expected, _ = encode_update(Broadcast(chosen, {}, alone), pick(gradients, [0, 2]), zero_losses(2), {})
        wanted = aggregate_updates(expected, {}, chosen, ChannelState.ideal(2), TRAINED, alone)
        assert memory == {}
        for n in SHAPES:
            torch.testing.assert_close(result.update[n], wanted.update[n])

    def test_a_mean_that_everybody_speaks_in_has_the_right_divisor(self):
        for strategy, averaged in (("laser", 4), ("z-sgd", 3)):
            config = {"strategy": strategy, "channel": "fading", "clients": 4, "gain-threshold": 0.3}
            server = Server(parse(config), tensors(clients=None), RoundSchedule(50))
            ctx = next(ctx for ctx in contexts(server) if len(ctx.transmitters) == 3)
            assert (ctx.averaged, len(ctx.participants)) == (averaged, 4)


def pick(tree, rows):
    return {name: tensor[rows] for name, tensor in tree.items()}


def contexts(server):
    """The contexts of a run of a scheme of one phase."""
    client_state = ClientState()
    while not server.finished:
        told = server.broadcast()
        yield told.context

        def respond(here, memory, told=told):
            gradients = tensors(clients=server.config.clients, seed=told.context.round)
            return encode_update(here, pick(gradients, list(here.context.participants)), losses_of(here), memory)

        reply, client_state = answer(told, client_state, range(server.config.clients), respond)
        server.aggregate([reply])


def losses_of(here):
    return torch.zeros(len(here.context.participants), dtype=torch.float64)


def TRAINED(signal_norms, gradient_norms, sizes):  # noqa: N802  any allocation would do
    return torch.full_like(sizes, 1 / len(sizes))


@pytest.mark.parametrize(
    ("name", "channel"), pairs([name for name in VARIANTS if name not in ("sgd", "d-dsgd")], ["fading", "blind"])
)
def test_whole_runs_equal_the_float64_twin(name, channel):
    """Twelve rounds in which clients are absent, drop out and stay silent, memories and warm starts included."""
    assert_is_the_twins_run(name, channel)


def assert_is_the_twins_run(name, channel, sizes=None, **more):
    options = {
        "channel": channel, "clients": CLIENTS, "fraction": 0.7, "dropout-rate": 0.3, "gain-threshold": 0.7,
        "csi-error-variance": 0.1, "antennas": 4, "power": 3.0, "noise-variance": 0.5, "learning-rate": 1.0,
        "compression-factor": 0.3, "phase-split": 0.4, "rounds": ROUNDS, "receiver": "plain", **more,
    }  # fmt: skip
    if name.startswith("laser-adaptive"):
        options["power"] = 0.2 if channel == "fading" else 0.02  # at more it is LASER
    config = parse(VARIANTS[name] | options)
    server = Server(config, tensors(clients=None, seed=99), RoundSchedule(ROUNDS), sizes=sizes or ())
    server.air.shared = exactly_orthonormal(server.air.shared)
    client_state, links, scales, noises, updates, told_columns = ClientState(), [], [], [], [], []
    while not server.finished:
        before, phases = server.global_model.weights, []
        before = {n: w.clone() for n, w in before.items()}
        drawn = tensors(clients=CLIENTS, seed=server.round)
        precoding = dict(zip(server.air.participation.participants, links_of(server), strict=True))
        links.append([precoding.get(client) for client in range(CLIENTS)])
        scales.append(server.air.participation.channel_state.noise_scale)
        done = False
        while not done:
            told = server.broadcast()

            def respond(here, memory, drawn=drawn):
                gradients = pick(drawn, list(here.context.participants)) if here.context.phase == 0 else None
                return encode_update(here, gradients, losses_of(here), memory)

            reply, client_state = answer(told, client_state, range(CLIENTS), respond)
            signals = reply.client_update.signals
            phases.append(
                [z.numpy() for z in apart(draw_noise(signals, told.context), signals).values()] if signals else []
            )
            done = server.aggregate([reply])
        noises.append(phases)
        if name.startswith("laser-adaptive"):
            told_columns.append(columns(server.air.scheme, told.context))
        updates.append({n: before[n] - w for n, w in server.global_model.weights.items()})
    transmitters = [line.transmitters for line in server.ledger]
    if channel == "fading":
        assert 0 in transmitters
    assert max(transmitters) > 2
    chosen = scheme(name, compression_factor=0.3, phase_split=0.4)
    gradients = [
        [[as_matrix(n, g[i]) for n, g in tensors(clients=CLIENTS, seed=t).items()] for i in range(CLIENTS)]
        for t in range(ROUNDS)
    ]
    twin = TWINS[name](chosen)
    if hasattr(twin, "indices"):
        twin.indices = all_indices()
    if hasattr(twin, "hashes"):
        twin.hashes = all_hashes()
    if hasattr(twin, "places"):
        twin.places = told_columns
    sigma = 0.5**0.5 * (1.0 if channel == "fading" else (CLIENTS / options["antennas"]) ** 0.5)
    expected, remembered = oracle.simulate(
        twin, gradients, reshaped(noises), options["power"], sigma, config.power_allocation, links, scales, sizes
    )
    for got, wanted in zip(updates, expected, strict=True):
        for n, w in zip(SHAPES, wanted or [0.0] * len(SHAPES), strict=True):
            target = torch.zeros_like(got[n]) if wanted is None else torch.from_numpy(w).view_as(got[n])
            torch.testing.assert_close(got[n], target, rtol=1e-7, atol=1e-9)
    for i in range(CLIENTS if client_state.memory else 0):
        for b, n in enumerate(SHAPES):
            rest = torch.from_numpy(as_matrix(n, client_state.memory[n][i]))
            torch.testing.assert_close(rest, torch.from_numpy(remembered[i][b]), rtol=1e-7, atol=1e-9)


def links_of(server):
    """(precoding, gain) of all present, the silent ones with 0."""
    every = server.air.channel.links(server.air.participation.participants, CLIENTS, server.round, server.air.streams)
    return list(zip(every.precoding.tolist(), every.gain.tolist(), strict=True))


def all_indices():
    sizes = tuple((b.size, max(1, int(0.3 * b.size))) for b in BLOCKS)
    return [[drawn.tolist() for drawn in draw_indices(RandomStreams(0), "random-k", t, sizes)] for t in range(ROUNDS)]


def all_hashes():
    counts = [max(1, int(0.3 * b.size)) for b in BLOCKS]
    sizes = tuple((b.size, count) for b, count in zip(BLOCKS, counts, strict=True))
    drawn = [sketch.draw(RandomStreams(0), t, sizes) for t in range(ROUNDS)]
    return [[(u.tolist(), s.tolist(), counts[i]) for i, (u, s) in enumerate(row)] for row in drawn]


BLOCKS = blocks_of(tensors(clients=None))


class TestARoundInWhichNobodySpoke:
    @pytest.mark.parametrize(
        ("variant", "reason"), pairs(VARIANTS, [{"channel": "fading", "gain-threshold": 1.0}, {"dropout-rate": 0.6}])
    )
    def test_leaves_the_server_as_it_was_and_the_ledger_says_so(self, variant, reason):
        values = {"clients": 2, "optimizer": "adamw", "weight-decay": 0.1, "lr-schedule": "cosine", "power": 5e3}
        server = Server(parse(values | VARIANTS[variant] | reason), tensors(clients=None), RoundSchedule(30))
        client_state, silent = ClientState(), 0
        while not server.finished:
            before = snapshot(server)
            done = False
            while not done:

                def respond(here, memory):
                    gradients = tensors(clients=2, seed=server.round)
                    drawn = pick(gradients, list(here.context.participants)) if here.context.phase == 0 else None
                    return encode_update(here, drawn, losses_of(here), memory)

                reply, client_state = answer(server.broadcast(), client_state, range(2), respond)
                done = server.aggregate([reply])
            line, after = server.ledger[-1], snapshot(server)
            same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            assert same == (line.transmitters == 0)
            if line.transmitters == 0:
                silent += 1
                spent = (line.channel_uses, line.uplink_floats, line.uplink_energy, line.max_power_used)
                assert spent == (0, 0, 0.0, 0.0)
                assert line.snr_db == -math.inf
        if variant != "sgd" or "dropout-rate" in reason:  # sgd's links are ideal
            assert 0 < silent < 30

    def test_a_digital_scheme_whose_messages_do_not_fit_says_nothing_and_remembers_all(self):
        server = Server(parse({"strategy": "d-dsgd", "clients": 4}), tensors(clients=None), RoundSchedule(3))
        client_state, initial = ClientState(), snapshot(server)
        for _ in range(3):
            told = server.broadcast()
            reply, client_state = answer(
                told, client_state, range(4), lambda b, m: encode_update(b, tensors(), zero_losses(), m)
            )
            assert server.aggregate([reply])
        assert all(torch.equal(a, b) for a, b in zip(initial, snapshot(server), strict=True))
        assert [line.transmitters for line in server.ledger] == [0, 0, 0]
        for n in SHAPES:
            torch.testing.assert_close(client_state.memory[n], 3 * tensors()[n])


def snapshot(server):
    moments = server.global_model.replica.state(0, {}).optimizer.values()
    averaged = server.global_model._sums.values()
    everything = (*server.global_model.weights.values(), *averaged, *server.air.shared.values(), *moments)
    return [torch.cat([tensor.flatten().double().clone() for tensor in everything])]


class TestTheDownlink:
    WEIGHTS = tensors(clients=None)

    def test_noise_has_the_models_norm_over_the_root_of_the_power(self):
        """θ_i = θ + (‖θ‖ / √P) n_i, each client with noise of its own."""
        ctx = context(clients=500)
        norm = math.sqrt(sum(float(w.square().sum()) for w in self.WEIGHTS.values()))
        std = noise_std(self.WEIGHTS, 40.0)
        assert std == pytest.approx(norm / 40**0.5)
        own, copies = receive(self.WEIGHTS, Downlink("model", std), {}, range(500), ctx)
        errors = torch.cat([((own[n] - w) / std).flatten() for n, w in self.WEIGHTS.items()])
        assert copies == {}
        assert abs(errors.mean()) < 4 / math.sqrt(len(errors))
        assert errors.std().item() == pytest.approx(1, rel=4 / math.sqrt(2 * len(errors)))
        residual = (own["hidden"] - self.WEIGHTS["hidden"]) / std
        pairs = torch.stack([residual[:-1].flatten(), residual[1:].flatten()])
        assert abs(torch.corrcoef(pairs)[0, 1]) < 4 / math.sqrt(pairs.shape[1])

    def test_without_noise_everybody_hears_the_model_itself(self):
        assert noise_std(self.WEIGHTS, math.inf) == 0
        assert receive(self.WEIGHTS, Downlink("model", 0.0), {}, range(4), context()) == (None, {})

    def test_updates_move_copies_that_drift_apart_by_their_own_noise(self):
        ctx = context(clients=400)
        own, copies = receive(self.WEIGHTS, Downlink("start"), {}, range(400), ctx)
        assert all(torch.equal(own[n][7], w) for n, w in self.WEIGHTS.items())
        update = tensors(clients=None, seed=3)
        for t in range(3):
            own, copies = receive(update, Downlink("update", 0.2), copies, range(400), context(clients=400, round=t))
        drift = torch.cat([(own[n] - self.WEIGHTS[n] - 3 * update[n]).flatten() for n in SHAPES])
        assert drift.std().item() == pytest.approx(0.2 * 3**0.5, rel=4 / math.sqrt(2 * len(drift)))

    def test_an_update_for_a_copy_that_was_lost_is_refused(self):
        with pytest.raises(TrainingError, match="round 1: an update came for a copy of the model that was lost"):
            receive(self.WEIGHTS, Downlink("update"), {}, range(4), context())

    def test_it_costs_energy_and_time(self):
        server = Server(
            parse({"downlink-power": 50, "clients": 4, "bandwidth": 100}), tensors(clients=None), RoundSchedule(1)
        )
        reply, _ = answer(
            server.broadcast(), ClientState(), range(4), lambda b, m: encode_update(b, tensors(), zero_losses(), m)
        )
        server.aggregate([reply])
        (line,) = server.ledger
        assert line.downlink_energy == 50
        assert line.latency_seconds == pytest.approx((line.channel_uses + server.parameters) / 100)


SHORT = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 6, "evaluate-every": 3}
SITUATIONS = {
    "absent": {"fraction": 0.4},
    "dropping out": {"dropout-rate": 0.6},
    "fading": {"channel": "fading", "gain-threshold": 0.7},
    "blind": {"channel": "blind", "antennas": 3},
    "noisy model": {"downlink-power": 1e7},
    "drifting": {"downlink": "update", "downlink-power": 1e6, "fraction": 0.6},
    "digital": {"strategy": "d-dsgd", "power": 500, "channel": "fading"},
    "two phases": {"factor-exchange": "two-phase", "channel": "fading", "fraction": 0.6, "downlink": "update"},
}
FILES = ("metrics.csv", "ledger.csv", "weights.safetensors")


class TestInEveryEngine:
    @pytest.mark.parametrize(("situation", "nodes"), pairs(SITUATIONS, [2, 5]))
    def test_the_same_happens_bit_for_bit(self, tmp_path, situation, nodes):
        options = SHORT | SITUATIONS[situation] | {"client-batching": "loop"}
        run_on_grid(parse(options | {"out-dir": str(tmp_path / "grid")}), nodes)
        in_process.run(parse(options), tmp_path / "direct")
        for file in FILES:
            assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()

    @pytest.mark.parametrize("situation", names(SITUATIONS))
    def test_batched_clients_do_the_same_up_to_rounding(self, tmp_path, situation):
        for batching in ("loop", "vmap"):
            in_process.run(parse(SHORT | SITUATIONS[situation] | {"client-batching": batching}), tmp_path / batching)
        a, b = (pd.read_csv(tmp_path / batching / "metrics.csv") for batching in ("loop", "vmap"))
        pd.testing.assert_frame_equal(a, b, rtol=1e-3)

    @pytest.mark.parametrize(
        "same",
        [
            {"fraction": 0.95},  # of five clients: all
            {"channel": "fading", "rician-k-db": "inf", "gain-threshold": 0},
            {"channel": "fading", "rician-k-db": "inf", "gain-threshold": 1},
        ],
    )
    def test_limits_are_the_plain_run_bit_for_bit(self, tmp_path, same):
        in_process.run(parse(SHORT), tmp_path / "plain")
        in_process.run(parse(SHORT | same), tmp_path / "limit")
        for file in FILES:
            assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "limit" / file).read_bytes()

    def test_an_infinite_downlink_power_is_bit_equal_to_shared_weights(self, tmp_path, monkeypatch):
        """The default, against every client hearing a copy of its own without noise."""
        in_process.run(parse(SHORT | {"client-batching": "loop"}), tmp_path / "plain")
        monkeypatch.setattr("laser_fl.federated.client.receive", hear_copies)
        in_process.run(parse(SHORT | {"client-batching": "loop"}), tmp_path / "copies")
        for file in FILES:
            assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "copies" / file).read_bytes()

    def test_a_run_whose_first_round_is_empty_can_be_shown(self, tmp_path):
        config = SHORT | {"clients": 2, "dropout-rate": 0.9, "seed": 4, "evaluate-every": 1, "rounds": 3}
        reports = []
        in_process.run(parse(config), tmp_path / "run", [Reporter("one", reports.append)])
        assert pd.read_csv(tmp_path / "run" / "ledger.csv").participants[0] == 0
        assert pd.isna(pd.read_csv(tmp_path / "run" / "metrics.csv").train_loss[0])
        assert "train loss" not in reports[1].line

    def test_the_noiseless_baseline_has_ideal_links_up_and_down(self, tmp_path):
        options = SHORT | {"strategy": "sgd"}
        in_process.run(parse(options), tmp_path / "plain")
        in_process.run(parse(options | {"channel": "fading", "downlink-power": 5}), tmp_path / "limit")
        assert (tmp_path / "plain" / FILES[2]).read_bytes() == (tmp_path / "limit" / FILES[2]).read_bytes()

    def test_copies_without_noise_follow_the_model_up_to_rounding(self, tmp_path):
        for downlink in ("model", "update"):
            in_process.run(parse(SHORT | {"downlink": downlink}), tmp_path / downlink)
        a, b = (pd.read_csv(tmp_path / downlink / "metrics.csv") for downlink in ("model", "update"))
        pd.testing.assert_frame_equal(a, b, rtol=1e-3)

    def test_a_threshold_under_which_nobody_would_speak_is_refused(self, tmp_path):
        rule = r"must let at least one client transmit in the whole run, expected are 2\.8e-06"
        line = rf"gain-threshold: {rule}, got 16\.0"
        with pytest.raises(ConfigError, match=line):
            in_process.run(parse(SHORT | {"channel": "fading", "gain-threshold": 16, "rounds": 5}), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_few_participants_are_no_reason_to_refuse(self):
        """Only what the channel does is; and of a small fraction at least one client is asked."""
        for values in ({"fraction": 0.01}, {"dropout-rate": 0.95, "clients": 1}):
            Server(parse({"rounds": 5} | values), tensors(clients=None), RoundSchedule(5))
        fading = {"channel": "fading", "gain-threshold": 2.0, "clients": 10, "rounds": 5}
        Server(parse(fading | {"fraction": 0.2}), tensors(clients=None), RoundSchedule(5))  # 10 e^-2 = 1.35
        for fewer in ({"fraction": 0.1}, {"fraction": 0.2, "dropout-rate": 0.5}):
            with pytest.raises(ConfigError, match="gain-threshold: must let at least one client transmit"):
                Server(parse(fading | fewer), tensors(clients=None), RoundSchedule(5))

    def test_metrics_and_summary_tell_what_was_spent(self, tmp_path):
        summary = in_process.run(parse(SHORT | {"channel": "fading", "bandwidth": 1e3}), tmp_path / "run")
        ledger, metrics = (pd.read_csv(tmp_path / "run" / name) for name in ("ledger.csv", "metrics.csv"))
        assert (ledger.latency_seconds == ledger.channel_uses / 1e3).all()
        assert (ledger.uplink_energy > 0).all()
        for column, total in (("channel_uses", "channel_uses"), ("energy", "uplink_energy")):
            sums = ledger[total].cumsum()
            assert metrics[column].tolist() == pytest.approx([sums[2], sums[5]])
            assert summary[f"total_{total}"] == pytest.approx(sums[5])
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["idle_rounds"] == 0


def hear_copies(weights, downlink, copies, clients, ctx):
    return {name: w.expand(len(clients), *w.shape).clone() for name, w in weights.items()}, {}


class TestDriftingCopies:
    def test_follow_the_updates_of_every_round_whether_their_client_is_there_or_not(self):
        """θ_i = θ_0 + Σ_t (Δ_t + ‖Δ_t‖/√P n_it), with the noise that the streams draw."""
        power, clients = 30.0, 4
        config = {"downlink": "update", "downlink-power": power, "clients": clients, "fraction": 0.5, "seed": 2}
        server = Server(parse(config), tensors(clients=None), RoundSchedule(8))
        client_state, expected, before = ClientState(), None, None
        for t in range(8):
            told = server.broadcast()
            weights = {n: w.clone() for n, w in server.global_model.weights.items()}
            if expected is None:
                expected = {n: torch.stack([w] * clients) for n, w in weights.items()}
            else:
                update = torch.cat([(weights[n] - before[n]).flatten() for n in SHAPES])
                for client in range(clients):
                    generator = RandomStreams(2).generator("downlink noise", t, client)
                    noise = torch.randn(len(update), generator=generator, dtype=torch.float64)
                    moved = update + float(update.norm()) / power**0.5 * noise
                    for n, part in zip(SHAPES, moved.split([w.numel() for w in weights.values()]), strict=True):
                        expected[n][client] += part.view(weights[n].shape)
            before = weights

            def respond(here, memory, t=t, expected=expected):
                for row, client in enumerate(here.context.participants):
                    for n in SHAPES:
                        torch.testing.assert_close(here.weights[n][row], expected[n][client], rtol=1e-9, atol=1e-9)
                drawn = pick(tensors(clients=clients, seed=t), list(here.context.participants))
                return encode_update(here, drawn, losses_of(here), memory)

            reply, client_state = answer(told, client_state, range(clients), respond)
            server.aggregate([reply])
        energies = [line.downlink_energy for line in server.ledger]
        assert energies == [0.0] + [power] * 7  # the start is known to all


class TestDigitalRuns:
    def test_bits_follow_each_clients_gain_the_power_and_the_channel_uses(self):
        config = {
            "strategy": "d-dsgd", "channel": "fading", "clients": 6, "power": 800.0, "channel-uses": 70,
            "noise-variance": 0.5, "gain-threshold": 0.3,
        }  # fmt: skip
        server = Server(parse(config), tensors(clients=None), RoundSchedule(20))
        for ctx in contexts(server):
            gains = server.air.channel.gains(6, ctx.round, RandomStreams(0))[0].abs().square()
            turns = int((gains >= 0.3).sum())
            for client, bits in zip(ctx.transmitters, ctx.bits, strict=True):
                wanted = 70 / (2 * turns) * math.log2(1 + turns * 800.0 * float(gains[client]) / (70 * 0.5))
                assert bits == pytest.approx(wanted)
            silent = set(range(6)) - set(ctx.transmitters)
            assert all(gains[client] < 0.3 or gains[client] < 1 for client in silent)
        for line in server.ledger:
            assert line.channel_uses <= 70

    def test_blind_links_carry_what_all_antennas_together_hear(self):
        config = {"strategy": "d-dsgd", "channel": "blind", "antennas": 8, "clients": 3, "power": 300.0}
        server = Server(parse(config), tensors(clients=None), RoundSchedule(2))
        size = server.parameters
        drawn = torch.randn(3, 8, generator=RandomStreams(0).generator("blind fading", 0), dtype=torch.complex128)
        for bits, energy in zip(server.air.participation.bits, drawn.abs().square().sum(dim=1).tolist(), strict=True):
            assert bits == pytest.approx(size / 6 * math.log2(1 + 3 * 300 * energy / size))


def test_rows_that_were_not_there_stay_as_they_were():
    before = {"w": torch.arange(6.0).view(3, 2)}
    after = place(before, [1], {"w": torch.tensor([[9.0, 9.0]])}, 3)
    assert after["w"].tolist() == [[0, 1], [9, 9], [4, 5]]
    assert after["w"] is before["w"]  # in place
    assert place({}, [2], {"w": torch.ones(1, 2)}, 3)["w"].tolist() == [[0, 0], [0, 0], [1, 1]]
