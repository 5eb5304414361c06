"""The paper's tables and figures, and our own, each made by one command: one file per item, and this table."""

from laser_fl.registry import Entry, Table

FIGURES = Table(
    {
        "table3": Entry("simulations.figures.table3:TABLE3", "what a client sends per round for GPT-2"),
        "table13": Entry("simulations.figures.table13:TABLE13", "every method on MNIST, at three powers"),
        "figure1": Entry("simulations.figures.figure1:FIGURE1", "and Table 1: GPT-2 on WikiText over power"),
        "figure2": Entry("simulations.figures.figure2:FIGURE2", "and Table 6: CIFAR-10 over power"),
        "figure3": Entry("simulations.figures.policies:FIGURE3", "power that falls over the run"),
        "figure4": Entry("simulations.figures.figure4:FIGURE4", "and Table 11: CIFAR-100 over power"),
        "figure5": Entry("simulations.figures.figure5:FIGURE5", "LASER's accuracy over its rank"),
        "figure6": Entry("simulations.figures.figure6:FIGURE6", "energy in the gradients' top 8 singular values"),
        "figure7": Entry("simulations.figures.policies:FIGURE7", "power that rises over the run"),
        "table1": Entry("simulations.figures.figure1:FIGURE1", "see figure1"),
        "table6": Entry("simulations.figures.figure2:FIGURE2", "see figure2"),
        "table11": Entry("simulations.figures.figure4:FIGURE4", "see figure4"),
        "influence": Entry("simulations.figures.influence:INFLUENCE", "Eq. (4): λ of LASER and Z-SGD over power"),
        "adaptive": Entry(
            "simulations.figures.adaptive:ADAPTIVE", "ours: laser-adaptive beside the others, over power"
        ),
        "channels": Entry("simulations.figures.channels:CHANNELS", "ours: accuracy over power, channel by channel"),
    }
)
