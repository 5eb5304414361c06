"""The callback that makes steps smaller where the score no longer improves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from laser_fl.callbacks.base import Metrics
from laser_fl.callbacks.watching import Patient
from laser_fl.registry import option

if TYPE_CHECKING:
    from laser_fl.federated.server import Server


@dataclass(eq=False)
class ReduceOnPlateau(Patient):
    """Multiplies the server's learning rate by a factor after so many evaluations in a row without a better score.

    The factor multiplies the rates of any lr-schedule from then on; then the count begins anew. Local steps do not
    change: their size is local-learning-rate, or the config's learning-rate.

    Example:
        >>> ReduceOnPlateau(plateau_patience=1, plateau_factor=0.1).plateau_factor
        0.1
    """

    plateau_patience: int = option(
        2, "evaluations in a row without a better score after which reduce-on-plateau acts", ge=1, lt=2**31
    )
    plateau_factor: float = option(0.5, "factor by which reduce-on-plateau multiplies the learning rate", gt=0, lt=1)

    def on_evaluation(self, server: "Server", metrics: Metrics) -> None:
        """Count, and reduce the learning rate where the score has not improved for so long."""
        self.count(server, metrics)
        if self.waited >= self.plateau_patience:
            self.waited = 0
            server.scale_learning_rate(self.plateau_factor)
