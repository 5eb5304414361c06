"""The schedule of a run: its length, its evaluations, and the power level of each round."""

from dataclasses import dataclass

from laser_fl.config import RunConfig


@dataclass(frozen=True)
class RoundSchedule:
    """The run's schedule. Rounds are counted from 0.

    rounds: length of the run. rounds_per_epoch: rounds of one pass over the data.
    rounds_per_step: rounds of one step, the unit of evaluations and power levels: an epoch, or
        one round where the run is counted in rounds.
    evaluate_every: steps between evaluations.
    even_rounds: length of the run if all clients had equally many examples; 0: it would be as long.
    """

    rounds: int
    rounds_per_epoch: int = 1
    rounds_per_step: int = 1
    evaluate_every: int = 1
    even_rounds: int = 0

    @classmethod
    def of(cls, config: RunConfig, rounds_per_epoch: int, rounds_per_even_epoch: int = 0) -> "RoundSchedule":
        """Build the schedule of `config`.

        Args:
            config: of the run.
            rounds_per_epoch: rounds of one pass over the data.
            rounds_per_even_epoch: the same if the data were split equally; 0: as many.
        """
        if config.counts_epochs:
            rounds, even_rounds = config.epochs * rounds_per_epoch, config.epochs * rounds_per_even_epoch
            return cls(rounds, rounds_per_epoch, rounds_per_epoch, config.evaluation_interval, even_rounds)
        return cls(config.rounds, rounds_per_epoch, 1, config.evaluation_interval)

    @property
    def notice(self) -> str:
        """A warning, in a line, for comparisons of this run with others; empty where there is none."""
        if self.even_rounds in (0, self.rounds):
            return ""
        return (
            f"an epoch has {self.rounds_per_epoch} rounds, which the client with most examples needs, and the run "
            f"{self.rounds}, not {self.even_rounds} as if all had equally many: compare it at equal rounds or energy"
        )

    @property
    def steps(self) -> int:
        """The number of steps, the last of which may be short."""
        return -(-self.rounds // self.rounds_per_step)

    def step(self, round: int) -> int:
        """Return the step that `round` belongs to."""
        return round // self.rounds_per_step

    def evaluates_after(self, round: int) -> bool:
        """Return True after every `evaluate_every` steps and after the last round."""
        return round + 1 == self.rounds or self.evaluates_regularly_after(round)

    def evaluates_regularly_after(self, round: int) -> bool:
        """Return True after every `evaluate_every` steps: in a run of any length."""
        return (round + 1) % (self.evaluate_every * self.rounds_per_step) == 0
