"""What the server makes of a noisy update before it steps: one file per receiver.

A receiver maps (update, energy of the noise in it, what it remembers, whether it is to weigh) to (update, what it
remembers next), all by block. Without noise it leaves the update as it is, and where it is not to weigh it, too.
"""

from laser_fl.tables import Entry, Table

RECEIVERS = Table(
    {
        "plain": Entry("laser_fl.receivers.plain:plain", "takes what was heard as it is (the paper)"),
        "wiener": Entry("laser_fl.receivers.wiener:wiener", "weighs it by how reliable the sum of all so far is"),
    }
)
AUTO = "auto"  # the scheme's own
