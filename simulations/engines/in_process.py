"""The in-process engine: all clients in this process, called directly. For research and sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser_fl.callbacks import Callback, built
from laser_fl.config import RunConfig
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.loop import train
from laser_fl.federated.setup import prepare
from laser_fl.storage.run_folder import RunFolder


def run(config: RunConfig, out: Path, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Run `config` into the folder `out`.

    Args:
        config: of the run.
        out: the run's folder.
        callbacks: called after that which writes the folder, and after those of the config.

    Returns:
        The summary.

    Raises:
        LaserError: the run could not start or did not complete; the folder keeps the results until then.
    """
    setup = prepare(config)
    engine = InProcess(setup)
    others = [*built(config), *callbacks]
    folder = RunFolder(out, config, "in-process", others)
    with folder.recording_failure(engine.server):
        train(engine.server, engine.advance, setup.evaluate, [folder, *others])
    return folder.finish(engine.server)
