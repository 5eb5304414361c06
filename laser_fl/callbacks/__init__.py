"""Callbacks: objects that a run calls after rounds and evaluations, in every engine and command.

docs/howto/callbacks.md has the built-in ones, and how to write another.

    laser-fl run -c callbacks=early-stopping,best-weights -c patience=3

A callback of one's own is a subclass of `Callback`: chosen as ``-c callbacks=my_module:MyCallback``, or handed to
`laser_fl.train` as an object.
"""

from laser_fl.callbacks.base import Callback, Metrics
from laser_fl.callbacks.best_weights import BestWeights
from laser_fl.callbacks.early_stopping import EarlyStopping
from laser_fl.callbacks.reduce_on_plateau import ReduceOnPlateau
from laser_fl.callbacks.running import built
from laser_fl.registry import CALLBACKS

__all__ = ["BestWeights", "Callback", "EarlyStopping", "Metrics", "ReduceOnPlateau", "built", "register_callback"]

register_callback = CALLBACKS.register
