"""Power in five equal stretches: P/3, 2P/3, P, 4P/3, 5P/3. Source: paper, §H.2."""

from functools import cache

LEVELS = 5


def steps_up(power: float, step: int, steps: int) -> float:
    """P_t rises in five stretches.

    Where 5 does not divide the number of steps the stretches differ by one step, and all levels
    are scaled so that their mean is P.
    """
    return power * _level(step, steps) / _mean(steps)


def steps_down(power: float, step: int, steps: int) -> float:
    """`steps_up` backwards."""
    return steps_up(power, steps - 1 - step, steps)


@cache
def _mean(steps: int) -> float:
    return sum(_level(step, steps) for step in range(steps)) / steps


def _level(step: int, steps: int) -> int:
    """1 to 5, proportional to the stretch's power."""
    return 1 + step * LEVELS // steps
