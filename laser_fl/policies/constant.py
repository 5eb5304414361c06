"""The paper's choice: the same power throughout. Source: paper, §4.2."""


def constant(power: float, step: int, steps: int) -> float:
    """P_t = P."""
    return power
