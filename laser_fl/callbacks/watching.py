"""The base of callbacks that judge the evaluations of a run by one of their scores."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from laser_fl.callbacks.base import Callback, Metrics
from laser_fl.data.metrics import Metric, scored
from laser_fl.errors import ConfigError, did_you_mean, quoted
from laser_fl.registry import check_options, option

if TYPE_CHECKING:
    from laser_fl.federated.server import Server


@dataclass(eq=False)
class Watching(Callback):
    """A callback that keeps the best value of a score: the lowest where less is better, else the highest.

    best: the best value so far; None before the first evaluation. score: its name, as in metrics.csv.
    """

    monitor: str = option("", "score that callbacks watch, as test_accuracy; empty: the task's, of averaged weights")
    best: float | None = field(default=None, init=False)
    score: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Refuse an option outside of its rule. Raises ConfigError."""
        check_options(self)

    def on_begin(self, server: "Server") -> None:
        """Begin anew in a new run."""
        if server.round == 0:
            self.best = None

    def improves(self, metrics: Metrics, by: float = 0.0) -> bool:
        """Return True where the score is better than the best one, which it replaces then.

        Args:
            metrics: of an evaluation.
            by: least change that counts.

        Raises:
            ConfigError: `monitor` is no score of the task.
        """
        self.score = self.monitor or f"ema_test_{scored(metrics.ema_test)[0]}"
        if self.score not in metrics.scores:
            rule, hint = f"must be one of {', '.join(metrics.scores)}", did_you_mean(self.score, metrics.scores)
            raise ConfigError(f"monitor: {rule}, got {quoted(self.score)}{hint}")
        metric = Metric.named(self.score.removeprefix("ema_").removeprefix("test_"))
        value, sign = metrics.scores[self.score], metric.sign
        if self.best is not None and not 0 < sign * (value - self.best) >= by:
            return False
        self.best = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and the score's name."""
        return {"best": self.best, "score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        self.best, self.score = state["best"], state["score"]


@dataclass(eq=False)
class Patient(Watching):
    """A callback that counts the evaluations since the best one.

    waited: their number. An evaluation that only the end of the run brings does not count: a longer run lacks it.
    """

    min_delta: float = option(0.0, "least change that early-stopping and reduce-on-plateau count as better", ge=0)
    waited: int = field(default=0, init=False)

    def on_begin(self, server: "Server") -> None:
        """Begin anew in a new run."""
        super().on_begin(server)
        if server.round == 0:
            self.waited = 0

    def count(self, server: "Server", metrics: Metrics) -> None:
        """Count an evaluation, from 0 after a better one."""
        if server.schedule.evaluates_regularly_after(server.round - 1):
            self.waited = 0 if self.improves(metrics, self.min_delta) else self.waited + 1

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the score's name, and the number of evaluations since."""
        return super().state_dict() | {"waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`."""
        super().load_state_dict(state)
        self.waited = state["waited"]
