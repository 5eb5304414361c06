"""The paper's tables and figures, and our own, each made by one command: one file per item, and this table."""

from laser_fl.tables import Entry, Table

FIGURES = Table(
    {
        "table13": Entry("simulations.figures.table13:TABLE13", "the paper's Table 13: every method on MNIST"),
        "figure2": Entry("simulations.figures.figure2:FIGURE2", "Figure 2 and Table 6: CIFAR-10 over power"),
        "figure3": Entry("simulations.figures.policies:FIGURE3", "Figure 3: power that falls over the run"),
        "figure5": Entry("simulations.figures.figure5:FIGURE5", "Figure 5: LASER's accuracy over its rank"),
        "figure7": Entry("simulations.figures.policies:FIGURE7", "Figure 7: power that rises over the run"),
        "channels": Entry("simulations.figures.channels:CHANNELS", "accuracy over power, channel by channel"),
    }
)
