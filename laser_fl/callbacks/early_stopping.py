"""The callback that ends a run whose score no longer improves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laser_fl.callbacks.base import Metrics
from laser_fl.callbacks.watching import Patient
from laser_fl.registry import option

if TYPE_CHECKING:
    from laser_fl.federated.server import Server


@dataclass(eq=False)
class EarlyStopping(Patient):
    """Ends the run, as completed, after so many evaluations in a row without a better score.

    Example:
        >>> EarlyStopping(patience=3, min_delta=0.001).patience
        3
    """

    patience: int = option(
        5, "evaluations in a row without a better score after which early-stopping ends a run", ge=1, lt=2**31
    )

    def on_begin(self, server: "Server") -> None:
        """Begin anew in a new run; end one at whose former end the score had not improved for so long."""
        super().on_begin(server)
        self._end(server)

    def on_evaluation(self, server: "Server", metrics: Metrics) -> None:
        """Count, and end the run where the score has not improved for so long."""
        self.count(server, metrics)
        self._end(server)

    def _end(self, server: "Server") -> None:
        if self.waited >= self.patience:
            server.stop(f"early-stopping: {self.score} was best, {self.best:.4g}, {self.waited} evaluations before")
