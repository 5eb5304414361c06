"""A scheme's rounds through the whole pipeline: memory, budget, zero gradients."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from laser_fl.blocks import Tensors
from laser_fl.channels.base import ChannelState
from laser_fl.channels.exchange import AggregationResult, ClientUpdate, Instructions
from laser_fl.pipeline import aggregate_updates, encode_update
from laser_fl.power.allocations import signal_norm
from laser_fl.schemes.base import RoundContext, Scheme
from laser_fl.testing.cases import ROUNDS, USES, Case, dense, initial
from laser_fl.testing.promises import Inspector

MARGIN = 1e-5  # relative, of power: rounding of the transmitted values


@dataclass(frozen=True)
class Walk:
    """A round: its corrected gradients, each phase's exchange, and the memory after it."""

    inspector: Inspector
    corrected: Tensors
    contexts: list[RoundContext]
    client_updates: list[ClientUpdate]
    results: list[AggregationResult]
    memory: Tensors


def check_walk(scheme: Scheme, case: Case) -> None:
    """Check memory, spent power and results over some rounds."""
    for walk in _walks(scheme, case, 1.0):
        _check_memory(scheme, case, walk)
        _check_budget(case, walk)
        _check_results(case, walk)


def check_zeros(scheme: Scheme, case: Case) -> None:
    """Check that zero gradients leave all finite, and without noise the model as it is."""
    for walk in _walks(scheme, case, 0.0):
        last = walk.results[-1]
        for tensors in (last.update or {}, last.shared, walk.memory):
            broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
            walk.inspector.require(not broken, "zero gradients must give finite values", broken)
        if math.isinf(case.power):
            most = max(float(u.abs().max()) for u in (last.update or {}).values())
            promise = "zero gradients must give a zero update without noise"
            walk.inspector.require(most == 0, promise, f"a value of {most:.2g}")


def _walks(scheme: Scheme, case: Case, scale: float) -> Iterator[Walk]:
    """Carry scaled gradients through the rounds of a case."""
    shared, memory = initial(scheme, case), dict[str, torch.Tensor]()
    for round in ROUNDS:
        gradients = {name: scale * g for name, g in case.gradients(round).items()}
        where = "" if scale > 0 else "zero gradients, "
        walk = _walk(scheme, case, where, round, gradients, shared, memory)
        yield walk
        shared, memory = walk.results[-1].shared, walk.memory


def _walk(
    scheme: Scheme, case: Case, where: str, round: int, gradients: Tensors, shared: Tensors, memory: Tensors
) -> Walk:
    inspector = case.inspector(scheme, f"{where}round {round}, ")
    corrected = {name: g + memory[name] if name in memory else g for name, g in gradients.items()}
    walk = Walk(inspector, corrected, [], [], [], {})
    losses = torch.zeros(case.clients, dtype=torch.float64)
    with inspector.no_errors():
        for phase in range(len(scheme.traits.phase_shares)):
            ctx = case.context(scheme, round, phase)
            drawn = gradients if phase == 0 else None
            client_update, memory = encode_update(Instructions(scheme, shared, ctx), drawn, losses, memory)
            result = aggregate_updates(
                client_update, shared, scheme, ChannelState.ideal(case.clients), signal_norm, ctx, channel_uses=USES
            )
            shared = result.shared
            walk.contexts.append(ctx)
            walk.client_updates.append(client_update)
            walk.results.append(result)
    walk.memory.update(memory)
    return walk


def _check_memory(scheme: Scheme, case: Case, walk: Walk) -> None:
    if not scheme.traits.error_feedback:
        walk.inspector.require(not walk.memory, "without error feedback no memory may be kept", sorted(walk.memory))
        return
    flights = [flight for client_update in walk.client_updates for flight in client_update.in_flight]
    parts = {name: part for flight in flights for name, part in flight.approximations.items()}
    kept = dense(parts, walk.corrected)
    sums = {name: kept[name] + m if name in kept else m for name, m in walk.memory.items()}
    promise = "kept + remaining memory must equal the corrected gradient"
    walk.inspector.require_alike(promise, sums, walk.corrected)


def _check_budget(case: Case, walk: Walk) -> None:
    spent = torch.stack([result.usage.client_power for result in walk.results])
    for ctx, power in zip(walk.contexts, spent, strict=True):
        _require_within(walk, f"phase {ctx.phase}, ", power, ctx.power)
    _require_within(walk, "", spent.sum(dim=0), case.power)


def _require_within(walk: Walk, where: str, spent: torch.Tensor, budget: float) -> None:
    most = float(spent.max())
    kept = most <= budget * (1 + MARGIN)
    walk.inspector.require(kept, "no client may exceed its power budget", f"{where}spent {most:.6g} of {budget:.6g}")


def _check_results(case: Case, walk: Walk) -> None:
    last = walk.results[-1]
    shapes = {block.name: block.shape for block in case.blocks}
    made = {name: tuple(tensor.shape) for name, tensor in (last.update or {}).items()}
    walk.inspector.require(made == shapes, "the update must have every block in its shape", f"{made} beside {shapes}")
    for of, tensors in (("the update", last.update or {}), ("the shared state", last.shared)):
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        walk.inspector.require(not broken, f"{of} must be finite under noise", broken)
    energies = {name: float(energy) for name, energy in last.noise.items()}
    valid = energies.keys() == shapes.keys() and all(0 <= energy < math.inf for energy in energies.values())
    walk.inspector.require(valid, "noise_energies must give every block's energy, finite and >= 0", energies)
