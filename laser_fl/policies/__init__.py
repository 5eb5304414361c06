"""How the power budget changes over a run.

A policy maps (mean power, step, steps) to the budget of that step; its mean over all steps is
the mean power exactly. Steps are epochs, or rounds where the run has no epochs.
"""

from laser_fl.tables import Entry, Table

POLICIES = Table({"constant": Entry("laser_fl.policies.constant:constant", "the same budget in every round")})
