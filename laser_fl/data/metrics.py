"""The metrics of tasks. A new one is a line here; every table, picture and choice of the best follows."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The rule by which scores of one name are compared and shown.

    best: max or min. factor: multiplies a score to show it, in `unit`.
    """

    name: str
    best: Callable[[list[float]], float]
    factor: float = 1.0
    unit: str = ""

    @property
    def label(self) -> str:
        """The name, with the unit where it has one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def in_percent(self) -> bool:
        """True where it lies between 0 and 100 %, so that differences count in points."""
        return self.unit == "%"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.best is max else -1


TASK_METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (Metric("accuracy", max, 100.0, "%"), Metric("perplexity", min))
}


def metrics_in(columns: Collection[str], score: str = "test") -> list[Metric]:
    """List the metrics that have a score ``<score>_<name>`` among `columns`, of a summary, a table or a file."""
    return [metric for name, metric in TASK_METRICS.items() if f"{score}_{name}" in columns]
