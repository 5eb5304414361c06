"""The paper's tables and figures, and our own, each made by one command: one file per item, and this table."""

from laser_fl.tables import Entry, Table

FIGURES = Table(
    {
        "table13": Entry("simulations.figures.table13:TABLE13", "the paper's Table 13: every method on MNIST"),
        "channels": Entry("simulations.figures.channels:CHANNELS", "accuracy over power, channel by channel"),
    }
)
