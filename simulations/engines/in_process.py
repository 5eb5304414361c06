"""The in-process engine: all clients in this process, called directly. For research and sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.host import Held, answer
from laser_fl.loop import Observer, train
from laser_fl.run_folder import RunFolder
from laser_fl.setup import prepare
from laser_fl.worker import Crew


def run(config: RunConfig, out: Path, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Run `config` into the folder `out`; returns the summary.

    Raises:
        LaserError: the run could not start or did not complete; the folder keeps what there is.
    """
    setup = prepare(config)
    training = setup.training()
    crew = Crew(setup.task, setup.network, config, range(config.clients))
    folder = RunFolder(out, config, "in-process")
    held = Held()

    def advance() -> bool:
        nonlocal held
        uplink, held = answer(training.broadcast(), held, range(config.clients), crew.answer)
        return training.absorb(uplink)

    try:
        train(training, advance, setup.evaluate, [folder, *observers])
    except BaseException as error:
        folder.fail(training, error)
        raise
    return folder.finish(training)
