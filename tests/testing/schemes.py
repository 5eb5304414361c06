"""A scheme of somebody's own, and wrong ones with the promise that each breaks."""

import math
from dataclasses import dataclass, replace

import torch

from laser_fl.blocks import as_rows
from laser_fl.registry import option
from laser_fl.schemes.approximation import Dense, OwnIndices, SharedIndices
from laser_fl.schemes.base import Scheme, Traits
from laser_fl.schemes.d_dsgd import DDsgd
from laser_fl.schemes.laser import Laser
from laser_fl.schemes.random_k import RandomK
from laser_fl.schemes.z_sgd import ZSgd


@dataclass(frozen=True)
class TopK(Scheme):
    """A client sends the largest values of every tensor, at indices of its own; the others stay in its memory."""

    keep: float = option(0.05, "values sent per value", gt=0, le=1)

    @property
    def traits(self):
        return Traits(error_feedback=True)

    def encode(self, corrected, shared, ctx):
        signals, approximations = {}, {}
        for block in ctx.blocks:
            rows = as_rows(corrected[block.name])
            indices = rows.abs().topk(max(1, math.floor(self.keep * block.size))).indices
            largest = OwnIndices(indices, rows.gather(1, indices))
            signals[block.name] = largest.scattered(block.size).view(-1, *block.shape)
            approximations[block.name] = largest
        return signals, approximations

    def decode(self, received, shared, ctx):
        return received.values, shared

    def shapes(self, block, ctx):
        return {block.name: block.shape}


class ForgetsTheRest(TopK):
    """The memory loses all that is not sent."""

    def encode(self, corrected, shared, ctx):
        return super().encode(corrected, shared, ctx)[0], {name: Dense(m.clone()) for name, m in corrected.items()}


class ForgetsATwentieth(TopK):
    def encode(self, corrected, shared, ctx):
        signals, _ = super().encode(corrected, shared, ctx)
        rest = {name: corrected[name] - signal for name, signal in signals.items()}
        return signals, {name: Dense(signals[name] + 0.05 * m) for name, m in rest.items()}


class KeepsTheWrongSign(TopK):
    def encode(self, corrected, shared, ctx):
        signals, _ = super().encode(corrected, shared, ctx)
        return signals, {name: Dense(-signal) for name, signal in signals.items()}


class SaysNothingOfItsSignals(TopK):
    def encode(self, corrected, shared, ctx):
        return super().encode(corrected, shared, ctx)[0], {}


class ChangesTheGradient(TopK):
    def encode(self, corrected, shared, ctx):
        signals, approximations = super().encode(corrected, shared, ctx)
        for name, approximation in approximations.items():
            approximation.subtract_from_(corrected[name])
        return signals, approximations


class SendsTheGradientItself(TopK):
    def encode(self, corrected, shared, ctx):
        return dict(corrected), {name: Dense(m.clone()) for name, m in corrected.items()}


class AdaptsToTheLargestClient(TopK):
    def encode(self, corrected, shared, ctx):
        signals = {name: m * (m.abs() >= 0.5 * m.abs().max()) for name, m in corrected.items()}
        return signals, {name: Dense(signal) for name, signal in signals.items()}


class SaysLinear(TopK):
    @property
    def traits(self):
        return Traits(error_feedback=True, linear=True)


class DeclaresOneMore(TopK):
    def shapes(self, block, ctx):
        return {block.name: (*block.shape, 1)}


class CountsWrongly(TopK):
    def num_values(self, ctx):
        return sum(max(1, math.floor(self.keep * block.size)) for block in ctx.blocks)


class SharesTooMuch(TopK):
    @property
    def traits(self):
        return Traits(error_feedback=True, phase_shares=(0.7, 0.7))


class FlatUpdate(TopK):
    def decode(self, received, shared, ctx):
        return {name: value.flatten() for name, value in received.values.items()}, shared


class HasNoUpdate(TopK):
    def decode(self, received, shared, ctx):
        return None, shared


class ChangesWhatItReceived(TopK):
    def decode(self, received, shared, ctx):
        return {name: value.mul_(0.5) for name, value in received.values.items()}, shared


class DividesByTheNorm(TopK):
    def encode(self, corrected, shared, ctx):
        signals = {name: m / m.norm() for name, m in corrected.items()} if ctx.clients == 1 else corrected
        return {name: m.clone() for name, m in signals.items()}, {name: Dense(m.clone()) for name, m in signals.items()}


class KnowsNoVectors(TopK):
    def shapes(self, block, ctx):
        rows, columns = block.shape
        return {block.name: (rows, columns)}


@dataclass(frozen=True)
class Lopsided(OwnIndices):
    """Its two methods do not undo each other."""

    def add_to_(self, memory):
        super().add_to_(memory)
        super().add_to_(memory)


class AddsTwice(TopK):
    def encode(self, corrected, shared, ctx):
        signals, approximations = super().encode(corrected, shared, ctx)
        return signals, {name: Lopsided(one.indices, one.values) for name, one in approximations.items()}


class HasSecretState(TopK):
    def init(self, blocks, streams):
        return {"step": torch.zeros(1)}


class NeverTheSame(RandomK):
    def encode(self, corrected, shared, ctx):
        signals, approximations = {}, {}
        for block in ctx.blocks:
            indices = torch.randperm(block.size)[: self.values(block, ctx)]
            signals[block.name] = as_rows(corrected[block.name])[:, indices]
            approximations[block.name] = SharedIndices(indices, signals[block.name])
        return signals, approximations


class SecondCallDiffers(RandomK):
    """It sends another time what it has sent, although a signal may be lost and encoded again."""

    def encode(self, corrected, shared, ctx):
        calls = vars(self).setdefault("calls", [])
        calls.append(ctx.round)
        return super().encode(corrected, shared, replace(ctx, round=len(calls)))


class HalvesTheUpdate(RandomK):
    def decode(self, received, shared, ctx):
        update, shared = super().decode(received, shared, ctx)
        return {name: 0.5 * u for name, u in update.items()}, shared


class AlternatesByRound(Laser):
    """It takes the other factor also after a round in which nobody transmitted."""

    def factors(self, block, matrix, basis, ctx):
        return super().factors(block, matrix, basis, replace(ctx, updates=ctx.round))

    def shared_shapes(self, block, ctx):
        return super().shared_shapes(block, replace(ctx, updates=ctx.round))


class RoundsToFloat32(ZSgd):
    def encode(self, corrected, shared, ctx):
        return {name: m.float() for name, m in corrected.items()}, {}


class TakesSigns(ZSgd):
    """Its signals are linear, its update is not."""

    def decode(self, received, shared, ctx):
        return {name: value.sign() for name, value in received.values.items()}, shared


class HasNegativeNoise(ZSgd):
    def noise_energies(self, received, ctx):
        return {name: -energy for name, energy in super().noise_energies(received, ctx).items()}


class SpendsTwice(ZSgd):
    """Every block as two signals, each of which gets all of the block's power."""

    def encode(self, corrected, shared, ctx):
        return {f"{name}#{part}": m for name, m in corrected.items() for part in "ab"}, {}

    def decode(self, received, shared, ctx):
        return {block.name: received.values[f"{block.name}#a"] for block in ctx.blocks}, shared

    def shapes(self, block, ctx):
        return {f"{block.name}#{part}": block.shape for part in "ab"}

    def split(self, block, norms, power, ctx):
        return torch.ones_like(norms[0])


class WritesTooMuch(DDsgd):
    def num_values(self, ctx):
        return 1


class FillsMoreThanTheLink(DDsgd):
    def payload(self, values, ctx):
        return 10 * super().payload(values, ctx)


class NotADataclass(Scheme):
    traits, encode, decode, shapes = (getattr(TopK, name) for name in ("traits", "encode", "decode", "shapes"))


@dataclass
class Thawed(Scheme):
    keep: float = 0.05
    traits, encode, decode, shapes = (getattr(TopK, name) for name in ("traits", "encode", "decode", "shapes"))


class EqualToNone(TopK):
    __eq__, __hash__ = object.__eq__, object.__hash__


@dataclass(frozen=True)
class TakesATuple(TopK):
    layers: tuple = ("hidden",)


BROKEN_SCHEMES = {
    ForgetsTheRest(): "a signal must stand for its approximation",
    ForgetsATwentieth(): "a signal must stand for its approximation",
    KeepsTheWrongSign(): "a client's own update must point the way of its approximation",
    SaysNothingOfItsSignals(): "with error feedback a block must have an approximation",
    ChangesTheGradient(): "encode must not change the corrected gradient",
    SendsTheGradientItself(): "no signal may share its storage with the corrected gradient",
    AdaptsToTheLargestClient(): "a client must send alone as it does beside others",
    SaysLinear(): "the mean of the signals must be the signal of the mean",
    DeclaresOneMore(): "shapes must declare the signals",
    CountsWrongly(): "num_values must be the numbers sent",
    SharesTooMuch(): r"phase_shares must be positive and of sum 1 \(\(0.7, 0.7\) of sum 1.4\)",
    FlatUpdate(): "the update must have every block in its shape",
    HasNoUpdate(): "the update must have every block in its shape",
    ChangesWhatItReceived(): "decode must not change the received values",
    DividesByTheNorm(): r"must work on valid inputs \(TrainingError.*zero gradients",
    KnowsNoVectors(): "must work on valid inputs .ValueError",
    AddsTwice(): "subtract_from_ must leave the rest of the approximation",
    HasSecretState(): "shared_shapes must declare the shared state",
    NeverTheSame(0.1): "a second call of encode must give the same signals",
    SecondCallDiffers(0.1): "a second call of encode must give the same signals",
    HalvesTheUpdate(0.1): r"update must be the mean of the approximations \(block 'hidden', off by 0.5 of its norm",
    AlternatesByRound(2): "shared_shapes must declare the shared state .*; round 2, phase 0, 4",
    RoundsToFloat32(): "encode must keep the dtype",
    TakesSigns(): "a linear scheme's update must be the mean over its clients",
    HasNegativeNoise(): "noise_energies must give every block's energy, finite and >= 0",
    SpendsTwice(): "no client may exceed its power budget .phase 0, spent 1[.]8",
    WritesTooMuch(): "must send no more values than num_values declares",
    FillsMoreThanTheLink(): r"PowerError: round 1: client 0 sent .* bits over a link",
    NotADataclass(): "must be a frozen dataclass",
    EqualToNone(): "must be equal to another of the same options",
    TakesATuple(): r"options must be int, float or str, .* \(\{'layers': 'tuple'\}\)",
}
