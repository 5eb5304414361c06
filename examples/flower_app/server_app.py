"""The server: LASER over a noisy channel, started with the model's state dict as in any Flower app.

Result to expect: accuracy 0.1 before the first round, above 0.95 after the last.
"""

from logging import INFO

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from task import accuracy, build

from strategies import Laser

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and log the accuracy of the final model."""
    settings, model = context.run_config, build()
    strategy = Laser(
        rank=settings["rank"],
        power=settings["power"],
        learning_rate=settings["learning-rate"],
        buffers=dict(model.named_buffers()),  # batch-norm statistics are not trained but follow the data
    )
    rounds = settings["num-server-rounds"]
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds, evaluate_fn=evaluate)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    log(INFO, "final accuracy %.3f", accuracy(model.state_dict()))


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Score the model on the server's own data."""
    return MetricRecord({"accuracy": accuracy(arrays.to_torch_state_dict())})
