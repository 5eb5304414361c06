"""What happens in the air: one file per model of the multiple-access channel."""

from laser_fl.tables import Entry, Table

CHANNELS = Table({"awgn": Entry("laser_fl.channels.awgn:Awgn", "the air adds up, Gaussian noise comes on top")})
