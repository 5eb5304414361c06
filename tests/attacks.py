"""Attacks of hostile clients that keep to the form of a reply, and an engine in which some clients carry them out.

They know everything: the honest clients' signals of the round, and the norm cap.
"""

from dataclasses import replace

import torch

from laser_fl.blocks import norms
from simulations.engines import in_process

FAR = 100.0  # times the median norm: far above any cap, and not absurd


class Attacker:
    """Some hostile clients that send what an attack makes of a signal, in some of the rounds."""

    def __init__(self, attack, bad, rounds=range(10**9), scale=FAR):
        self.attack, self.bad, self.rounds, self.scale = attack, bad, rounds, scale
        self.draws, self.kept = torch.Generator().manual_seed(0), {}

    def spoil(self, client_update):
        """Return the update of all clients, the first `bad` of which are hostile."""
        signals = {name: signal.clone() for name, signal in client_update.signals.items()}
        usual = client_update.signal_norms[self.bad :].median(dim=0).values
        for (name, signal), norm in zip(signals.items(), usual.tolist(), strict=True):
            for client in range(self.bad):
                sent = self.attack(self, name, signal[client], signal[self.bad :])
                size = float(sent.norm())
                signal[client] = sent * (self.scale * norm / size) if size > 0 else sent
        return replace(client_update, signals=signals, signal_norms=norms(signals, len(client_update.signal_norms)))


def _negated(attacker, name, own, honest):
    return -own


def _against_the_mean(attacker, name, own, honest):
    return -honest.mean(dim=0)


def _noise(attacker, name, own, honest):
    return torch.randn(own.shape, generator=attacker.draws)


def _always_the_same(attacker, name, own, honest):
    return attacker.kept.setdefault((name, own.shape), -honest.mean(dim=0).clone())


def _beside_the_mean(attacker, name, own, honest):
    """ "A little is enough" (Baruch et al., 2019): the mean, shifted by some standard deviations."""
    return honest.mean(dim=0) - 4 * honest.std(dim=0)


ATTACKS = {
    "negated gradient": _negated,
    "against the mean": _against_the_mean,
    "noise": _noise,
    "always the same": _always_the_same,
    "beside the mean": _beside_the_mean,
}


class HostileEngine(in_process.InProcess):
    """An engine whose first clients are hostile, by `attacker`."""

    def __init__(self, setup, attacker):
        super().__init__(setup)
        self.attacker = attacker

    def advance(self):
        reply = self._group.answer(self.server.broadcast())
        if reply.client_update.signals and self.server.round in self.attacker.rounds:
            reply = replace(reply, client_update=self.attacker.spoil(reply.client_update))
        return self.server.aggregate([reply])


def hostile_run(monkeypatch, config, path, attacker):
    """Run in-process with hostile clients. Returns the summary."""
    with monkeypatch.context() as patch:
        patch.setattr(in_process, "InProcess", lambda setup: HostileEngine(setup, attacker))
        return in_process.run(config, path)
