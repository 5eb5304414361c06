"""How the power budget changes over a run.

A policy maps (mean power, step, steps) to the budget of that step; its mean over all steps is
the mean power exactly. Steps are epochs, or rounds where the run has no epochs.

Source: paper, §4.2 and §H.2.
"""

from laser_fl.tables import Entry, Table

POLICIES = Table(
    {
        "constant": Entry("laser_fl.policies.constant:constant", "the same budget throughout (the paper's best)"),
        "linear-up": Entry("laser_fl.policies.linear:linear_up", "from P/3 to 5P/3"),
        "linear-down": Entry("laser_fl.policies.linear:linear_down", "from 5P/3 to P/3"),
        "steps-up": Entry("laser_fl.policies.steps:steps_up", "P/3, 2P/3, P, 4P/3, 5P/3"),
        "steps-down": Entry("laser_fl.policies.steps:steps_down", "5P/3, 4P/3, P, 2P/3, P/3"),
    }
)
