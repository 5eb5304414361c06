"""LASER and its baselines as Flower strategies."""

from strategies.over_the_air import OverTheAir
from strategies.schemes import ADsgd, DDsgd, Laser, LaserAdaptive, OwnScheme, RandomK, Sgd, Signum, Sketch, ZSgd

__all__ = [
    "ADsgd",
    "DDsgd",
    "Laser",
    "LaserAdaptive",
    "OverTheAir",
    "OwnScheme",
    "RandomK",
    "Sgd",
    "Signum",
    "Sketch",
    "ZSgd",
]
