"""The results of training over the air in one call: of one run, and of several strategies side by side."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from laser_fl.blocks import Tensors
from laser_fl.callbacks import Metrics
from laser_fl.config import RunConfig
from laser_fl.data.metrics import Metric
from laser_fl.errors import packages_for

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Result:
    """A run that is over.

    config: of the run. model: a copy of the caller's, trained. averaged: the moving average of its weights, by name.
    metrics: of each evaluation. records: the ledger's, a mapping per round.
    summary: last scores, best score, costs; as in a run's summary.json. metric: the name of the task's first metric.

    Example:
        >>> import torch
        >>> from laser_fl import train
        >>> data = torch.randn(8, 3), torch.randint(2, (8,))
        >>> result = train(torch.nn.Linear(3, 2), data, data, clients=2, batch_size=2, rounds=2)
        >>> sorted(result.summary)[:2]
        ['best_ema_test_accuracy', 'clients']
    """

    config: RunConfig
    model: nn.Module
    averaged: Tensors
    metrics: tuple[Metrics, ...]
    records: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    metric: str

    @property
    def history(self) -> "pd.DataFrame":
        """The scores and what was spent until then, a row per evaluation; as in a run's metrics.csv."""
        with packages_for("history"):
            import pandas as pd

        return pd.DataFrame([one.flat() for one in self.metrics])

    @property
    def ledger(self) -> "pd.DataFrame":
        """The costs, a row per round; as in a run's ledger.csv."""
        with packages_for("ledger"):
            import pandas as pd

        return pd.DataFrame(self.records)

    def plot(self) -> "Figure":
        """Draw the scores over the rounds."""
        return Comparison({self.config.strategy: self}).plot()

    def __repr__(self) -> str:
        score = self.summary.get(f"test_{self.metric}", math.nan)
        rounds = self.summary["rounds"]
        return f"<Result of {self.config.strategy}: {rounds} rounds, test {self.metric} {score:.4g}>"


class Comparison(dict[str, Result]):
    """The results of several strategies, by name.

    failed: the reasons of those whose run was not completed, as where noise drowned the model; they have no result.
    """

    def __init__(self, results: Mapping[str, Result] | None = None) -> None:
        super().__init__(results or {})
        self.failed: dict[str, str] = {}

    @property
    def table(self) -> "pd.DataFrame":
        """The summaries, or the reason why there is none, a row per strategy; as ``laser-fl compare`` writes them."""
        with packages_for("table"):
            import pandas as pd

        completed = [{"strategy": name, "reason": "", **result.summary} for name, result in self.items()]
        return pd.DataFrame([*completed, *({"strategy": n, "reason": reason} for n, reason in self.failed.items())])

    def plot(self) -> "Figure":
        """Draw the scores over the rounds: of the averaged weights, and thin those of the current ones."""
        with packages_for("plot"):
            from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, result in self.items():
            _draw(axes, name, result)
        metric = Metric.named(next(iter(self.values())).metric)
        axes.set(xlabel="round", ylabel=f"test {metric.label}", yscale=metric.scale(axes))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        return figure


def _draw(axes: "Axes", name: str, result: Result) -> None:
    """Draw one run's curves."""
    factor, rounds = Metric.named(result.metric).factor, [one.round for one in result.metrics]
    current, averaged = (
        [factor * getattr(one, score)[result.metric] for one in result.metrics] for score in ("test", "ema_test")
    )
    (line,) = axes.plot(rounds, averaged, label=name)
    axes.plot(rounds, current, lw=0.8, alpha=0.5, color=line.get_color())
