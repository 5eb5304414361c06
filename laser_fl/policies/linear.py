"""Power that rises or falls linearly between P/3 and 5P/3. Source: paper, §H.2."""


def linear_up(power: float, step: int, steps: int) -> float:
    """P_t from P/3 to 5P/3; a run of one step gets P. Its mean is P, both ends being as far from it."""
    return power * (1 / 3 + 4 / 3 * step / (steps - 1)) if steps > 1 else power


def linear_down(power: float, step: int, steps: int) -> float:
    """`linear_up` backwards."""
    return linear_up(power, steps - 1 - step, steps)
