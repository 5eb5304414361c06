"""The Flower ServerApp: a run of laser-fl by ``flwr run``."""

import logging
from datetime import datetime
from logging import INFO, WARNING

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from laser_fl.callbacks import Callback, Metrics, built
from laser_fl.config import parse
from laser_fl.errors import LaserError
from laser_fl.federated.server import Server
from laser_fl.federated.setup import prepare
from laser_fl.storage.run_folder import RunFolder, path_of
from laser_fl.transport.arrays import write_tensors
from strategies.over_the_air import OverTheAir

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the config of `context` on all nodes of `grid` and write the run's folder."""
    try:
        _run(grid, context)
    except LaserError as error:
        _fail_quietly(error)
        raise


def _run(grid: Grid, context: Context) -> None:
    config = parse(context.run_config)
    setup = prepare(config)
    setup.refuse_untrainable()
    schedule = setup.schedule
    callbacks = built(config)
    folder = RunFolder(path_of(config, datetime.now()), config, "flower", callbacks)
    network = setup.network
    strategy = OverTheAir(
        config,
        schedule=schedule,
        evaluate=setup.evaluate,
        callbacks=[folder, *callbacks, _Log()],
        transposed=network.transposed,
        undecayed=network.undecayed,
        buffers=network.buffers,
        device=setup.device,
        sizes=setup.sizes,
    )
    log(INFO, "run folder: %s", folder.path.resolve())
    try:
        strategy.start(grid, write_tensors(network.weights), schedule.rounds, config.reply_timeout)
    except BaseException as error:
        stopped = isinstance(error, SystemExit)  # Flower raises it on a signal
        folder.fail(strategy.server, KeyboardInterrupt() if stopped else error)
        raise
    assert strategy.server is not None
    folder.finish(strategy.server)


class _Log(Callback):
    """One line per evaluation on Flower's log, one per round with faults, and one on an unusual length."""

    def on_begin(self, server: Server) -> None:
        """Log the notice on the run's length, if there is one."""
        if notice := server.schedule.notice:
            log(WARNING, "%s", notice)

    def on_round(self, server: Server, seconds: float) -> None:
        """Log the clients that were left out, if there are any."""
        if warning := server.warning:
            log(WARNING, "%s", warning)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Log the progress of the run and its metrics."""
        log(INFO, "%s", metrics.line(server.schedule.rounds))


def _fail_quietly(error: LaserError) -> None:
    """Let Flower log `error` as the one line it is, instead of a traceback."""

    def one_line(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is error:
            record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return "Exit Code:" not in record.getMessage()

    logging.getLogger("flwr").addFilter(one_line)
