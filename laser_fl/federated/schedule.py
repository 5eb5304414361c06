"""How long a run is, when it is evaluated, and which power level a round belongs to."""

from dataclasses import dataclass

from laser_fl.config import RunConfig


@dataclass(frozen=True)
class Plan:
    """The run's calendar. Rounds are counted from 0.

    rounds: length of the run. rounds_per_epoch: rounds of one pass over the data.
    rounds_per_step: rounds of one step, the unit of evaluations and power levels: an epoch, or
        one round where the run is counted in rounds.
    evaluate_every: steps between evaluations.
    even_rounds: length of the run if all clients held equally many examples; 0: it would be as long.
    """

    rounds: int
    rounds_per_epoch: int = 1
    rounds_per_step: int = 1
    evaluate_every: int = 1
    even_rounds: int = 0

    @classmethod
    def of(cls, config: RunConfig, rounds_per_epoch: int, rounds_per_even_epoch: int = 0) -> "Plan":
        """The calendar of `config` on data of which one pass takes `rounds_per_epoch` rounds.

        rounds_per_even_epoch: that it would take if the data were dealt equally; 0: as many.
        """
        if config.counts_epochs:
            rounds, even_rounds = config.epochs * rounds_per_epoch, config.epochs * rounds_per_even_epoch
            return cls(rounds, rounds_per_epoch, rounds_per_epoch, config.evaluation_interval, even_rounds)
        return cls(config.rounds, rounds_per_epoch, 1, config.evaluation_interval)

    @property
    def notice(self) -> str:
        """What to know before the run is compared with others, in a line; empty where there is nothing."""
        if self.even_rounds in (0, self.rounds):
            return ""
        return (
            f"an epoch has {self.rounds_per_epoch} rounds, which the client with most examples needs, and the run "
            f"{self.rounds}, not {self.even_rounds} as if all had equally many: compare it at equal rounds or energy"
        )

    @property
    def steps(self) -> int:
        """Number of steps, the last of which may be short."""
        return -(-self.rounds // self.rounds_per_step)

    def step(self, round: int) -> int:
        """The step that `round` belongs to."""
        return round // self.rounds_per_step

    def evaluates_after(self, round: int) -> bool:
        """True after every `evaluate_every` steps and after the last round."""
        done = round + 1
        return done == self.rounds or done % (self.evaluate_every * self.rounds_per_step) == 0
