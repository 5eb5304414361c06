"""What is learned: data, models, loss and metric; one file per task."""

from laser_fl.tables import Entry, Table

TASKS = Table(
    {
        "mnist-5k": Entry("laser_fl.tasks.mnist_5k:load", "5,000 handwritten digits, embedded", ("linear", "mlp")),
        "mnist": Entry("laser_fl.tasks.mnist:load", "70,000 handwritten digits", ("linear", "mlp")),
        "fashion-mnist": Entry("laser_fl.tasks.fashion_mnist:load", "70,000 pieces of clothing", ("linear", "mlp")),
    }
)
