"""The summary of a run: its last scores, its best one, and its costs."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from laser_fl.callbacks import Metrics
from laser_fl.data.metrics import Metric, scored
from laser_fl.federated.server import Server
from laser_fl.storage.peak_memory import peak_megabytes


def summarise(server: Server, engine: str, metrics: Sequence[Metrics], seconds: Sequence[float]) -> dict[str, Any]:
    """Sum a run up.

    Args:
        server: of the run, after its last round.
        engine: its name.
        metrics: of its evaluations.
        seconds: that its rounds took.
    """
    config = server.config
    about = {
        "engine": engine,
        "task": config.task,
        "model": config.model,
        "strategy": config.strategy,
        "seed": config.seed,
        "clients": config.clients,
        "rounds": server.round,
        "power": config.power,
        "parameters": server.parameters,
        "device": str(device_of(server)),
        "peak_device_mb": peak_megabytes(device_of(server)),
    }
    stopped = {"stopped_early": True, "stop_reason": server.stop_reason} if server.stop_reason else {}
    factor = server.global_model.replica.rate_factor
    reduced = {} if factor == 1 else {"learning_rate_factor": factor}
    pace = {"seconds_per_round": sum(seconds) / len(seconds)} if seconds else {}
    return about | stopped | reduced | _scores(metrics) | _costs(server) | pace


def device_of(server: Server) -> torch.device:
    """Return the device of the server's model."""
    return next(iter(server.global_model.weights.values())).device


def _scores(metrics: Sequence[Metrics]) -> dict[str, float]:
    """Return the last scores, and the best one of the averaged weights."""
    if not metrics:
        return {}
    last = metrics[-1]
    scores = {f"test_{name}": value for name, value in last.test.items()}
    scores |= {f"ema_test_{name}": value for name, value in last.ema_test.items()}
    for name in scored(last.ema_test):
        scores[f"best_ema_test_{name}"] = Metric.named(name).best([m.ema_test[name] for m in metrics])
    return scores


def _costs(server: Server) -> dict[str, float]:
    """Return what the run cost, as its ledger has it; idle rounds do not count as rounds with values sent."""
    ledger = server.ledger
    if not ledger:
        return {}
    sent = [record.uplink_floats for record in ledger if record.uplink_floats]
    num_values = sum(sent) / len(sent) if sent else 0.0
    snrs = [record.snr_db for record in ledger if record.snr_db > -math.inf]
    return {
        "uplink_floats_per_round": num_values,
        "compression_ratio": server.parameters / num_values if num_values else math.inf,
        "max_power_used": max(record.max_power_used for record in ledger),
        "mean_snr_db": sum(snrs) / len(snrs) if snrs else -math.inf,
        "transmitters_per_round": sum(record.transmitters for record in ledger) / len(ledger),
        "idle_rounds": sum(record.transmitters == 0 for record in ledger),
        **{f"total_{column}": total for column, total in vars(ledger.totals).items()},
    }
