"""What happens in the air: one file per model of the multiple-access channel."""

from laser_fl.tables import Entry, Table

CHANNELS = Table(
    {
        "awgn": Entry("laser_fl.channels.awgn:Awgn", "the air adds up, Gaussian noise comes on top"),
        "fading": Entry("laser_fl.channels.fading:Fading", "Rayleigh or Rician gains, which the clients invert"),
        "blind": Entry("laser_fl.channels.blind:Blind", "gains that no client knows; the server has many antennas"),
    }
)
