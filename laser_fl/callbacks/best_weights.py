"""The callback that keeps the weights of the best evaluation."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save

from laser_fl.blocks import Tensors
from laser_fl.callbacks.base import Metrics
from laser_fl.callbacks.watching import Watching
from laser_fl.storage.files import BEST, write_whole

if TYPE_CHECKING:
    from laser_fl.federated.server import Server


@dataclass(eq=False)
class BestWeights(Watching):
    """Keeps weights and buffers of the best evaluation: in the run's folder, or on this object where there is none.

    They are the averaged ones, unless `monitor` is a score of the current ones, as test_accuracy. ``best.safetensors``
    has the round, the score's name and its value in its metadata, under ``best``, as JSON.

    Example:
        >>> BestWeights(monitor="test_loss").weights
        {}
    """

    _file: Path | None = field(default=None, init=False, repr=False)
    _kept: Tensors = field(default_factory=dict, init=False, repr=False)

    def on_begin(self, server: "Server") -> None:
        """Begin anew in a new run."""
        super().on_begin(server)
        self._file, self._kept = server.folder and server.folder / BEST, {}

    def on_evaluation(self, server: "Server", metrics: Metrics) -> None:
        """Keep the weights where they are the best so far. Raises StorageError where they cannot be written."""
        if not self.improves(metrics):
            return
        model = server.global_model
        tensors = model.averaged if self.score.startswith("ema_") else model.tensors
        if self._file is None:
            self._kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            return
        about = json.dumps({"round": metrics.round, "score": self.score, "value": self.best})
        arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(self._file, save(arrays, {"best": about}))  # one entry, since several are written in any order

    @property
    def weights(self) -> Tensors:
        """Weights and buffers of the best evaluation so far, by name; none before the first."""
        if self._file is None or not self._file.is_file():
            return self._kept
        return load_file(self._file)
