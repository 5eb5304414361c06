"""LASER and its baselines as Flower strategies."""

from strategies.over_the_air import OverTheAir
from strategies.schemes import Laser, Sgd, ZSgd

__all__ = ["Laser", "OverTheAir", "Sgd", "ZSgd"]
