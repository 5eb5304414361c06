"""What the server makes of a noisy update before it steps: one file per kind of receiver.

A receiver maps (update, energy of the noise in it, what it remembers, whether it is to weigh, what is due) to (update,
what it remembers next), all by block but the last two. Without noise it leaves the update as it is, and where it is not
to weigh it, too. Due is what the gains, with this one, are to add up to at least (`Stepping.due`).
"""

from laser_fl.tables import Entry, Table

RECEIVERS = Table(
    {
        "plain": Entry("laser_fl.receivers.plain:plain", "takes what was heard as it is (the paper)"),
        "wiener": Entry("laser_fl.receivers.wiener:wiener", "weighs it by how reliable the sum of all so far is"),
        "paced": Entry("laser_fl.receivers.wiener:paced", "as wiener, but never below what a run of its length needs"),
    }
)
AUTO = "auto"  # the scheme's own
