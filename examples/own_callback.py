"""A callback of your own: the run ends as soon as the averaged weights are good enough, and says what that took.

$ laser-fl run -c callbacks=own_callback:Target -c target-accuracy=0.8
...
stopped   after round 120: accuracy 0.800 after 188,640 channel uses
$ python own_callback.py
<Result of laser: 80 rounds, test accuracy 0.966>
accuracy 0.910 after 1,440 channel uses
"""

from dataclasses import dataclass

import torch

import laser_fl as lf
from laser_fl.callbacks import Callback, Metrics
from laser_fl.federated.server import Server


@dataclass
class Target(Callback):
    """Ends a run at a target."""

    target_accuracy: float = lf.option(0.9, "accuracy of averaged weights at which the run ends", gt=0, le=1)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Stop where the target is reached; the run counts as completed."""
        if (score := metrics.ema_test["accuracy"]) >= self.target_accuracy:
            server.stop(f"accuracy {score:.3f} after {metrics.channel_uses:,} channel uses")


if __name__ == "__main__":
    torch.manual_seed(0)
    inputs = torch.randn(2000, 8)
    data = inputs, (inputs.sum(dim=1) > 0).long()
    options = {"power": 10.0, "clients": 8, "rounds": 400, "evaluate_every": 20, "learning_rate": 0.05}
    result = lf.train(torch.nn.Linear(8, 2), data, data, callbacks=[Target(target_accuracy=0.9)], **options)
    print(result, result.summary["stop_reason"], sep="\n")
