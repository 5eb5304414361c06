"""Power policies: the change of the budget over a run.

A policy maps to the budget of a step; its mean over all steps is the mean power exactly. Its arguments:

    power: the mean P, linear.
    step: counted from 0; an epoch, or a round where the run has no epochs.
    steps: of the run, >= 1.

Source: paper, §4.2 and §H.2.
"""

from functools import cache

LEVELS = 5


def constant(power: float, step: int, steps: int) -> float:
    """Return P_t = P."""
    return power


def linear_up(power: float, step: int, steps: int) -> float:
    """Raise P_t from P/3 to 5P/3; a run of one step gets P. The mean is P, since both ends are as far from it."""
    return power * (1 / 3 + 4 / 3 * step / (steps - 1)) if steps > 1 else power


def linear_down(power: float, step: int, steps: int) -> float:
    """Run `linear_up` backwards."""
    return linear_up(power, steps - 1 - step, steps)


def steps_up(power: float, step: int, steps: int) -> float:
    """Raise P_t in five stretches.

    The stretches differ by one step where 5 does not divide the number of steps, and all levels are scaled so that
    their mean is P.
    """
    return power * _level(step, steps) / _mean(steps)


def steps_down(power: float, step: int, steps: int) -> float:
    """Run `steps_up` backwards."""
    return steps_up(power, steps - 1 - step, steps)


@cache
def _mean(steps: int) -> float:
    return sum(_level(step, steps) for step in range(steps)) / steps


def _level(step: int, steps: int) -> int:
    """Return 1 to 5, proportional to the stretch's power."""
    return 1 + step * LEVELS // steps
