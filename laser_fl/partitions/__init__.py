"""Who holds which examples: one function per way to deal them.

A partition is fixed by the seed, and every engine and node makes the same.
"""

from laser_fl.tables import Entry, Table

PARTITIONS = Table(
    {
        "iid": Entry("laser_fl.partitions.iid:iid", "dealt at random, equally many to each client"),
        "dirichlet": Entry("laser_fl.partitions.by_label:dirichlet", "each label by a Dirichlet draw over clients"),
        "shards": Entry("laser_fl.partitions.by_label:shards", "sorted by label, so many pieces to each client"),
    }
)
