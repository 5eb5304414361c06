"""What is told of a run while it goes, and to whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laser_fl.federated.server import Training


@dataclass(frozen=True)
class Metrics:
    """One evaluation.

    round: rounds done. epoch: passes over the data done. train_loss: mean over the clients of the
    last round in which any were present. test: of the current weights. ema_test: of their moving
    average. channel_uses, energy, latency_seconds: spent so far, as in the ledger, up and down.
    """

    round: int
    epoch: float
    train_loss: float | None
    test: Mapping[str, float]
    ema_test: Mapping[str, float]
    channel_uses: int
    energy: float
    latency_seconds: float

    @classmethod
    def parse(cls, row: Mapping[str, str]) -> "Metrics":
        """Undo a row of metrics.csv. Raises ValueError or KeyError."""
        test, ema_test = (
            {name.removeprefix(kind): float(value) for name, value in row.items() if name.startswith(kind)}
            for kind in ("test_", "ema_test_")
        )
        return cls(
            round=int(row["round"]),
            epoch=float(row["epoch"]),
            train_loss=float(row["train_loss"]) if row["train_loss"] else None,
            test=test,
            ema_test=ema_test,
            channel_uses=int(row["channel_uses"]),
            energy=float(row["energy"]),
            latency_seconds=float(row["latency_seconds"]),
        )

    @property
    def scores(self) -> dict[str, float]:
        """test_<metric>..., ema_test_<metric>...."""
        current = {f"test_{name}": value for name, value in self.test.items()}
        return current | {f"ema_test_{name}": value for name, value in self.ema_test.items()}

    def flat(self) -> dict[str, int | float | None]:
        """One row: round, epoch, train_loss, the scores, what was spent."""
        spent = {name: getattr(self, name) for name in ("channel_uses", "energy", "latency_seconds")}
        return {"round": self.round, "epoch": self.epoch, "train_loss": self.train_loss} | self.scores | spent

    def line(self, rounds: int) -> str:
        """One line for a log; rounds: length of the run."""
        scores = "  ".join(f"{name} {self.test[name]:.4f} (averaged {self.ema_test[name]:.4f})" for name in self.test)
        loss = "" if self.train_loss is None else f"train loss {self.train_loss:.4f}  "
        return f"round {self.round}/{rounds}  {loss}test {scores}"


class Observer:
    """Looks on while a run goes; does nothing unless overridden."""

    def on_begin(self, training: "Training") -> None:
        """Before the first round."""

    def on_round(self, training: "Training", seconds: float) -> None:
        """After every round; `training.ledger[-1]` is its entry. seconds: what it took."""

    def on_evaluation(self, training: "Training", metrics: Metrics) -> None:
        """After every evaluation."""

    def on_checkpoint(self, training: "Training") -> None:
        """After a round whose state is to be kept, and after its evaluation."""
