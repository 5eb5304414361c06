"""Learning over the air: LASER and its baselines at equal, verified power.

In a loop of one's own
    OverTheAir     takes all clients' gradients, returns the server's update; keeps memory, power, ledger
    gradients      computes each client's gradient, batched where that is faster
    step           lets an optimizer step on an update
    ddp_hook       one added line in a loop of DistributedDataParallel: each rank is a client

In one call, on own model and data
    train          one strategy                        -> Result (history, ledger, summary, model, plot)
    compare        several at the same power           -> their Results, with plot and table
    Task           data, models, loss and metric, for the command line: -c task=my_task:load

Schemes
    Laser  LaserAdaptive  ZSgd  Sgd  Signum  RandomK  Sketch  ADsgd  DDsgd

Channels
    Awgn  Fading  Blind

Parts of one's own
    Scheme, Channel                                    the interfaces
    option                                             declares a hyperparameter, which becomes a config key
    register_scheme, register_channel, register_task, register_model, register_partition,
    register_policy, register_allocation, register_tracker
                                                       give a part a name
    laser_fl.testing                                   tells whether a part keeps its promises
    laser_fl.callbacks                                 early stopping, steps on a plateau, best weights, and own ones

A round is on one page in `laser_fl.pipeline`; the packages around it are

    schemes/ channels/ power/      what is sent, through what, with which budget
    federated/                     server and clients, round by round: one loop for all engines
    data/ models/                  tasks and networks
    storage/ transport/            a run's folder; its messages, the only part that imports Flower
    registry/ config/              the names of all parts, and the keys of a run

Source: Makkuva, Bondaschi, Vogels, Jaggi, Kim, Gastpar, "LASER: Linear Compression in Wireless Distributed
Optimization". Names are imported on first use: ``import laser_fl`` imports no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from laser_fl.registry import ALLOCATIONS, CHANNELS, MODELS, PARTITIONS, POLICIES, SCHEMES, TASKS, TRACKERS, option

if TYPE_CHECKING:
    from laser_fl.channels.awgn import Awgn
    from laser_fl.channels.base import Channel
    from laser_fl.channels.blind import Blind
    from laser_fl.channels.fading import Fading
    from laser_fl.data.task import Task
    from laser_fl.ddp import ddp_hook
    from laser_fl.experiment import compare, train
    from laser_fl.over_the_air import OverTheAir, gradients, step
    from laser_fl.schemes.a_dsgd import ADsgd
    from laser_fl.schemes.base import Scheme
    from laser_fl.schemes.d_dsgd import DDsgd
    from laser_fl.schemes.laser import Laser
    from laser_fl.schemes.laser_adaptive import LaserAdaptive
    from laser_fl.schemes.random_k import RandomK
    from laser_fl.schemes.signum import Signum
    from laser_fl.schemes.sketch import Sketch
    from laser_fl.schemes.z_sgd import Sgd, ZSgd

__all__ = [
    "ADsgd",
    "Awgn",
    "Blind",
    "Channel",
    "DDsgd",
    "Fading",
    "Laser",
    "LaserAdaptive",
    "OverTheAir",
    "RandomK",
    "Scheme",
    "Sgd",
    "Signum",
    "Sketch",
    "Task",
    "ZSgd",
    "compare",
    "ddp_hook",
    "gradients",
    "option",
    "register_allocation",
    "register_channel",
    "register_model",
    "register_partition",
    "register_policy",
    "register_scheme",
    "register_task",
    "register_tracker",
    "step",
    "train",
]

register_scheme = SCHEMES.register
register_channel = CHANNELS.register
register_task = TASKS.register
register_model = MODELS.register
register_partition = PARTITIONS.register
register_policy = POLICIES.register
register_allocation = ALLOCATIONS.register
register_tracker = TRACKERS.register

_PLACES = {
    "over_the_air": ("OverTheAir", "gradients", "step"),
    "ddp": ("ddp_hook",),
    "experiment": ("compare", "train"),
    "data.task": ("Task",),
    "schemes.base": ("Scheme",),
    "schemes.laser": ("Laser",),
    "schemes.laser_adaptive": ("LaserAdaptive",),
    "schemes.z_sgd": ("Sgd", "ZSgd"),
    "schemes.signum": ("Signum",),
    "schemes.random_k": ("RandomK",),
    "schemes.sketch": ("Sketch",),
    "schemes.a_dsgd": ("ADsgd",),
    "schemes.d_dsgd": ("DDsgd",),
    "channels.base": ("Channel",),
    "channels.awgn": ("Awgn",),
    "channels.fading": ("Fading",),
    "channels.blind": ("Blind",),
}
_MODULES = {name: f"laser_fl.{module}" for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
