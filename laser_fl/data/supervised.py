"""Tasks on rows with a column to predict: classes by cross-entropy and accuracy, numbers by the squared error."""

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor
from torch.nn.functional import mse_loss

from laser_fl.data.metrics import ACCURACY, LOSS
from laser_fl.data.task import Builder, Task, cross_entropy_of_all
from laser_fl.registry import Option
from laser_fl.shapes import Float

Target = Annotated[str, Option("column to predict: texts and integers are classes, other numbers are numbers")]
ClientColumn = Annotated[str, Option("column that names each example's client, for partition=by-column")]


def supervised(train: Any, test: Any, numbers: bool, models: Mapping[str, Builder], **more: Any) -> Task:
    """Make the task to predict classes or numbers.

    Args:
        train: data, as `Task` takes them.
        test: likewise.
        numbers: True where the targets are numbers, False where they are classes.
        models: builders by name.
        more: other fields of the task.
    """
    loss = squared_error if numbers else cross_entropy_of_all
    return Task(train, test, models, metrics=LOSS if numbers else ACCURACY, loss=loss, **more)


def squared_error(outputs: Float[Tensor, "batch 1"], targets: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Return the mean squared error of one number for each example."""
    return mse_loss(outputs.squeeze(-1), targets)
