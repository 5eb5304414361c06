"""The promises of a scheme, checked over models, clients, precisions, powers, rounds and phases."""

from collections.abc import Callable
from dataclasses import replace

import torch

from laser_fl.blocks import Tensors, as_rows
from laser_fl.channels.exchange import values_sent
from laser_fl.schemes.approximation import Approximation, float_tensors
from laser_fl.schemes.base import Scheme, Traits
from laser_fl.testing.cases import CASES, Exchange, copied, dense, exact, rounds
from laser_fl.testing.feedback import check_stands_for
from laser_fl.testing.promises import Inspector, check_dataclass
from laser_fl.testing.walks import check_walk, check_zeros


def check_scheme(scheme: Scheme) -> None:
    """Check that a scheme keeps the promises of `Scheme` and of its own traits.

    The cases are the same in every call, and take a few seconds.

    Args:
        scheme: an instance with the options to check; others need calls of their own.

    Raises:
        BrokenPromiseError: it does not; the message names the promise, the numbers and the case.

    Example:
        >>> from laser_fl.schemes.random_k import RandomK
        >>> check_scheme(RandomK(compression_factor=0.1))
    """
    check_dataclass(scheme, Scheme)
    _check_traits(scheme)
    for case in CASES:
        with case.inspector(scheme).no_errors():
            for exchanges in rounds(scheme, case):
                for x in exchanges:
                    _check_exchange(x)
                _check_round(exchanges)
            check_walk(scheme, case)
            check_zeros(scheme, case)
    check_stands_for(scheme)


def _check_traits(scheme: Scheme) -> None:
    own = Inspector(scheme)
    with own.no_errors():
        traits = scheme.traits
    own.require(isinstance(traits, Traits), "traits must be Traits", type(traits).__name__)
    shares = traits.phase_shares
    valid = len(shares) > 0 and all(share > 0 for share in shares) and abs(sum(shares) - 1) < 1e-9
    own.require(valid, "phase_shares must be positive and of sum 1", f"{shares} of sum {sum(shares):g}")
    own.require(traits.bits_per_value >= 1, "bits_per_value must be at least 1", traits.bits_per_value)


def _check_exchange(x: Exchange) -> None:
    with x.inspector.no_errors():
        for check in EXCHANGE_CHECKS:
            check(x)
        if x.scheme.traits.linear:
            _check_signals_are_linear(x)


def _check_dtype(x: Exchange) -> None:
    kept = next(iter(x.corrected.values())).dtype
    parts = {name: tensor for name, part in x.approximations.items() for tensor in float_tensors(part)}
    for of, tensors in (("encode", x.signals | parts), ("decode", (x.update or {}) | x.next_shared)):
        others = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype != kept}
        x.inspector.require(not others, f"{of} must keep the dtype", f"{kept} became {others}")


def _check_finite(x: Exchange) -> None:
    for of, tensors in (("encode", x.signals), ("decode", (x.update or {}) | x.next_shared)):
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        x.inspector.require(not broken, f"{of} must give finite values", broken)


def _check_counts(x: Exchange) -> None:
    declared, total = x.scheme.num_values(x.ctx), sum(as_rows(signal).shape[1] for signal in x.signals.values())
    if x.scheme.traits.digital:
        sent = int(values_sent(x.signals).max())
        promise = "a digital client must send no more values than num_values declares"
        x.inspector.require(sent <= declared, promise, f"{sent} of {declared}")
        return
    x.inspector.require(declared == total, "num_values must be the numbers sent", f"{declared}, {total} were sent")
    by_block = sum(x.scheme.values(block, x.ctx) for block in x.ctx.blocks)
    x.inspector.require(by_block == total, "values must add up to the numbers sent", f"{by_block}, {total} were sent")
    count = sum(x.scheme.signals(block, x.ctx) for block in x.ctx.blocks)
    x.inspector.require(count == len(x.signals), "signals must count the signals", f"{count} of {len(x.signals)}")


def _check_repeats(x: Exchange) -> None:
    for scheme, of in ((x.scheme, "a second call"), (replace(x.scheme), "an equal scheme")):  # type: ignore[type-var]
        signals, approximations = scheme.encode(copied(x.corrected), copied(x.shared), x.ctx)
        x.inspector.require_same(f"{of} of encode must give the same signals", signals, x.signals)
        kept, again = (dense(parts, x.corrected) for parts in (x.approximations, approximations))
        x.inspector.require_same(f"{of} of encode must give the same approximations", again, kept)
        update, shared = scheme.decode(exact(x.signals), copied(x.shared), x.ctx)
        x.inspector.require_same(f"{of} of decode must give the same update", update or {}, x.update or {})
        x.inspector.require_same(f"{of} of decode must give the same shared state", shared, x.next_shared)


def _check_alone(x: Exchange) -> None:
    for client in x.ctx.transmitters:
        own = _of(x.corrected, client)
        signals, approximations = x.scheme.encode(copied(own), copied(x.shared), x.ctx.of([client]))
        promise = "a client must send alone as it does beside others"
        x.inspector.require_alike(promise, signals, _of(x.signals, client), "signal")
        together = _of(dense(x.approximations, x.corrected), client)
        promise = "a client's approximation must be the same alone and beside others"
        x.inspector.require_alike(promise, dense(approximations, own), together)


def _check_undo(x: Exchange) -> None:
    if not x.scheme.traits.error_feedback:
        return
    rest = copied(x.corrected)
    for name, approximation in x.approximations.items():
        approximation.subtract_from_(rest[name])
    kept = dense(x.approximations, x.corrected)
    sums = {name: kept[name] + rest[name] for name in x.approximations}
    _require_scaled(x, "subtract_from_ must leave the rest of the approximation", sums, x.approximations)
    for name, approximation in x.approximations.items():
        approximation.add_to_(rest[name])
    _require_scaled(x, "add_to_ must undo subtract_from_", rest, x.approximations)


def _require_scaled(x: Exchange, promise: str, actual: Tensors, names: dict[str, Approximation]) -> None:
    x.inspector.require_alike(
        promise, {name: actual[name] for name in names}, {name: x.corrected[name] for name in names}
    )


def _check_signals_are_linear(x: Exchange) -> None:
    mean = {name: m.mean(dim=0, keepdim=True) for name, m in x.corrected.items()}
    signals, _ = x.scheme.encode(mean, copied(x.shared), x.ctx.of(x.ctx.transmitters[:1]))
    of_mean = {name: signal[0] for name, signal in signals.items()}
    promise = "of a linear scheme the mean of the signals must be the signal of the mean"
    x.inspector.require_alike(promise, of_mean, x.received.values, "signal")


EXCHANGE_CHECKS: tuple[Callable[[Exchange], None], ...] = (
    _check_dtype,
    _check_finite,
    _check_counts,
    _check_repeats,
    _check_alone,
    _check_undo,
)


def _check_round(exchanges: list[Exchange]) -> None:
    last, traits = exchanges[-1], exchanges[-1].scheme.traits
    assert last.update is not None
    with last.inspector.no_errors():
        if not traits.error_feedback:
            if traits.linear and len(exchanges) == 1:
                _check_update_of_each(last, last.update)
            return
        kept = _kept(exchanges)
        if traits.linear:
            mean = {name: m.mean(dim=0) for name, m in kept.items()}
            promise = "a linear scheme's update must be the mean of the approximations"
            last.inspector.require_alike(promise, last.update, mean)
        elif len(last.ctx.transmitters) == 1:
            along = sum(float((last.update[name] * m).sum()) for name, m in kept.items())
            promise = "a client's own update must point the way of its approximation"
            last.inspector.require(along > 0, promise, f"inner product {along:.2g}")


def _kept(exchanges: list[Exchange]) -> Tensors:
    """Return the approximations of a round, each block's from one of the phases."""
    last, kept = exchanges[-1], dict[str, torch.Tensor]()
    for x in exchanges:
        twice = sorted(kept.keys() & x.approximations.keys())
        x.inspector.require(not twice, "a block must have one approximation a round", f"two of {twice}")
        kept |= dense(x.approximations, x.corrected)
    missing = [block.name for block in last.ctx.blocks if block.name not in kept]
    last.inspector.require(not missing, "with error feedback a block must have an approximation", f"none of {missing}")
    return kept


def _check_update_of_each(x: Exchange, update: Tensors) -> None:
    """Check the mean over clients of what each client's signal alone is decoded to."""
    alone = [x.scheme.decode(exact(_of(x.signals, c)), copied(x.shared), x.ctx)[0] or {} for c in x.ctx.transmitters]
    mean = {name: torch.stack([one[name] for one in alone]).mean(dim=0) for name in update}
    x.inspector.require_alike("a linear scheme's update must be the mean over its clients", update, mean)


def _of(tensors: Tensors, row: int) -> Tensors:
    return {name: tensor[row : row + 1] for name, tensor in tensors.items()}
