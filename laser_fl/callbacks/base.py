"""The interface of a callback, and the metrics that it receives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from laser_fl.data.metrics import CLIENTS

if TYPE_CHECKING:
    from laser_fl.federated.server import Server


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation.

    round: rounds done. epoch: passes over the data done. train_loss: mean over the participants of the last round
    that had any. test: of the current weights. ema_test: of their moving average. channel_uses, energy,
    latency_seconds: spent so far, as in the ledger, up and down.
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
        """The scores by name: test_<metric>..., ema_test_<metric>...."""
        current = {f"test_{name}": value for name, value in self.test.items()}
        return current | {f"ema_test_{name}": value for name, value in self.ema_test.items()}

    def flat(self) -> dict[str, int | float | None]:
        """Return one row: round, epoch, train_loss, the scores, and the totals spent."""
        spent = {name: getattr(self, name) for name in ("channel_uses", "energy", "latency_seconds")}
        return {"round": self.round, "epoch": self.epoch, "train_loss": self.train_loss} | self.scores | spent

    def line(self, rounds: int) -> str:
        """Return one line for a log. rounds: length of the run."""
        names = [name for name in self.test if not name.startswith(CLIENTS)]
        scores = "  ".join(f"{name} {self.test[name]:.4f} (averaged {self.ema_test[name]:.4f})" for name in names)
        loss = "" if self.train_loss is None else f"train loss {self.train_loss:.4f}  "
        return f"round {self.round}/{rounds}  {loss}test {scores}"


class Callback:
    """An object that a run calls as it proceeds; its methods do nothing unless overridden.

    `Server` has what a callback may use: `round`, `ledger`, `global_model`, `folder`; `stop` ends the run, and
    `scale_learning_rate` changes its steps. An object may serve several runs, one after the other: one that counts
    begins anew in `on_begin` where `server.round` is 0.

    Example:
        >>> class Shout(Callback):
        ...     def on_evaluation(self, server, metrics):
        ...         print(f"ROUND {metrics.round}")
        >>> Shout().state_dict()
        {}
    """

    def on_begin(self, server: "Server") -> None:
        """React to the start of the run, before the first round, or before the next one where the run goes on."""

    def on_round(self, server: "Server", seconds: float) -> None:
        """React to the end of a round; `server.ledger[-1]` is its record. seconds: its duration."""

    def on_evaluation(self, server: "Server", metrics: Metrics) -> None:
        """React to an evaluation."""

    def on_checkpoint(self, server: "Server") -> None:
        """Save the state after a round that needs a checkpoint, and after its evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that it must know to go on in a run that is resumed, as JSON can carry it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; called before `on_begin` where a run goes on. A callback without a state gets none."""
