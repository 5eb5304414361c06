"""The rounds of a run: one loop for every engine.

An engine supplies `advance`, which carries one broadcast to the clients and their replies back. The server's part is
in `laser_fl.federated.server`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from laser_fl.blocks import Tensors
from laser_fl.callbacks.base import Callback, Metrics
from laser_fl.callbacks.running import notify
from laser_fl.data.metrics import LOSS, PERPLEXITY
from laser_fl.errors import TrainingError
from laser_fl.federated.server import Server

Evaluate = Callable[[Tensors], Mapping[str, float]]


def train(
    server: Server,
    advance: Callable[[], bool],
    evaluate: Evaluate | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run all rounds, or those until a callback stops the run; the last one is evaluated.

    Args:
        server: of the run.
        advance: carries out one exchange and returns the result of `Server.aggregate`.
        evaluate: weights -> metrics on test data; called for the current and the averaged weights.
        callbacks: called in their order.

    Raises:
        TrainingError: a score is not finite, or a callback raised an error.
    """
    notify(callbacks, "on_begin", server)
    while not server.finished:
        started = time.perf_counter()
        while not advance():
            pass
        seconds = time.perf_counter() - started
        notify(callbacks, "on_round", server, seconds)
        if evaluate is not None and (server.schedule.evaluates_after(server.round - 1) or server.finished):
            notify(callbacks, "on_evaluation", server, _metrics(server, evaluate))
        if server.saves_after(server.round):
            notify(callbacks, "on_checkpoint", server)


def _metrics(server: Server, evaluate: Evaluate) -> Metrics:
    """Evaluate the current and the averaged weights. Raises TrainingError where a score is not finite."""
    totals = server.ledger.totals
    metrics = Metrics(
        round=server.round,
        epoch=server.round / server.schedule.rounds_per_epoch,
        train_loss=server.train_loss,
        test=evaluate(server.global_model.tensors),
        ema_test=evaluate(server.global_model.averaged),
        channel_uses=totals.channel_uses,
        energy=totals.uplink_energy + totals.downlink_energy,
        latency_seconds=totals.latency_seconds,
    )
    for name, value in ({"train_loss": metrics.train_loss} | metrics.scores).items():
        if value is not None and not math.isfinite(value):
            reason = f"the {name} is {value}: the model has diverged"
            if LOSS not in name and PERPLEXITY not in name:
                reason = f"the metric {name} is {value}"
            raise TrainingError(f"round {server.round}: {reason}")
    return metrics
