"""The rounds of a run: one loop for every engine.

An engine supplies `advance`, which carries one broadcast to the clients and their replies back;
what the server makes of them is in `laser_fl.federated.server`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from laser_fl.blocks import Tensors
from laser_fl.errors import TrainingError
from laser_fl.federated.callbacks import Metrics, Observer
from laser_fl.federated.server import Training

Evaluate = Callable[[Tensors], Mapping[str, float]]


def train(
    training: Training,
    advance: Callable[[], bool],
    evaluate: Evaluate | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Run all rounds.

    advance: carries out one exchange and returns what `Training.absorb` returned.
    evaluate: weights -> metrics on test data; called for the current and the averaged weights.
    """
    for observer in observers:
        observer.on_begin(training)
    while not training.finished:
        started = time.perf_counter()
        while not advance():
            pass
        seconds = time.perf_counter() - started
        for observer in observers:
            observer.on_round(training, seconds)
        if evaluate is not None and training.plan.evaluates_after(training.round - 1):
            metrics = _metrics(training, evaluate)
            for observer in observers:
                observer.on_evaluation(training, metrics)
        if training.saves_after(training.round):
            for observer in observers:
                observer.on_checkpoint(training)


def _metrics(training: Training, evaluate: Evaluate) -> Metrics:
    """Evaluate the current and the averaged weights. Raises TrainingError where a score is not finite."""
    totals = training.ledger.totals
    metrics = Metrics(
        round=training.round,
        epoch=training.round / training.plan.rounds_per_epoch,
        train_loss=training.train_loss,
        test=evaluate(training.server.model),
        ema_test=evaluate(training.server.averaged_model),
        channel_uses=totals.channel_uses,
        energy=totals.uplink_energy + totals.downlink_energy,
        latency_seconds=totals.latency_seconds,
    )
    for name, value in ({"train_loss": metrics.train_loss} | metrics.scores).items():
        if value is not None and not math.isfinite(value):
            raise TrainingError(f"round {training.round}: the {name} is {value}: the model has diverged")
    return metrics
