"""Build the device, task and model of a run from its config, the same way in every engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from laser_fl.config import RunConfig
from laser_fl.data.sampler import Sampler
from laser_fl.data.sources import default_folder
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError
from laser_fl.federated.differentiation import set_kernels
from laser_fl.federated.evaluation import evaluate
from laser_fl.federated.loop import Evaluate
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.trial import refuse_untrainable
from laser_fl.models.base import Network
from laser_fl.registry import OWN, TASKS


@dataclass(frozen=True)
class Setup:
    """The objects that both sides of a run build from its config."""

    config: RunConfig
    task: Task
    network: Network
    device: torch.device

    @property
    def evaluate(self) -> Evaluate:
        """The function that scores a model's weights and buffers on the test data."""
        return partial(evaluate, self.task, self.network.module, config=self.config)

    @cached_property
    def schedule(self) -> RoundSchedule:
        """The run's schedule. Raises ConfigError where there are more clients than examples."""
        sampler = self._sampler
        return RoundSchedule.of(self.config, sampler.rounds_per_epoch, sampler.rounds_per_even_epoch)

    @property
    def sizes(self) -> Sequence[int]:
        """The number of training examples of each client. Raises ConfigError as `schedule`."""
        return self._sampler.sizes

    @cached_property
    def _sampler(self) -> Sampler:
        sampler: Sampler = self.task.train.sampler(self.config, range(0))
        return sampler

    def refuse_untrainable(self) -> None:
        """Try a gradient and an evaluation. Raises ConfigError or DataError where the model cannot be trained."""
        refuse_untrainable(self.task, self.network, self.config)

    def server(self) -> Server:
        """Build the server before the first round. Raises ConfigError for errors that only data and length show."""
        network = self.network
        return Server(
            self.config,
            network.weights,
            self.schedule,
            network.transposed,
            network.undecayed,
            network.buffers,
            self.sizes,
        )


def prepare(config: RunConfig) -> Setup:
    """Load the data, draw the initial model, put both on the device, set PyTorch's threads and a GPU's kernels.

    Raises:
        ConfigError: the device does not exist; there are fewer test examples than asked for; or the model makes random
            draws of its own, but clients are computed in one call.
        DataError: the data set does not exist.
    """
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    device_of(config)  # refuses one that does not exist before the data are read
    if config.task == OWN:
        raise ConfigError(f"task: must be the name of a task here, since own data come by laser_fl.train, got {OWN!r}")
    task = TASKS.build(config.task, config)(data_dir(config), config)
    if not isinstance(task, Task):
        raise ConfigError(f"task: {config.task} must return a laser_fl.Task, got {type(task).__name__}")
    return setup_of(config, task)


def setup_of(config: RunConfig, task: Task) -> Setup:
    """Draw the initial model of a task, and put data and model on the device. Raises ConfigError as `prepare`."""
    device = device_of(config)
    if config.client_batching == "graph" and device.type != "cuda":
        raise ConfigError(f"client-batching: must be auto, vmap or loop for device {device}, got 'graph'")
    set_kernels(config, device)
    task = task.to(device)
    if config.evaluate_examples > len(task.test):
        rule = f"must be at most the {len(task.test)} test examples"
        raise ConfigError(f"evaluate-examples: {rule}, got {config.evaluate_examples}")
    network = task.network(config)
    if config.client_batching == "vmap" and (network.draws or not task.train.stacked):
        about = "a model with dropout" if network.draws else "data that are read while the run goes on"
        raise ConfigError(f"client-batching: must be loop or auto for {about}, got 'vmap'")
    network.module.to(device)
    return Setup(config, task, network, device)


def device_of(config: RunConfig) -> torch.device:
    """Return the device that `config` names; auto takes a GPU where there is one. Raises ConfigError."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: must be one of this machine's {torch.cuda.device_count()} GPUs, got {device}")
    return device


def data_dir(config: RunConfig) -> Path:
    """Return the folder of the data sets: data-dir, else $LASER_FL_DATA, else a cache folder."""
    return Path(config.data_dir).expanduser() if config.data_dir else default_folder()
