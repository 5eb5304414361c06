"""What is sent: one file per scheme."""

from laser_fl.tables import Entry, Table

SCHEMES = Table(
    {
        "sgd": Entry("laser_fl.schemes.z_sgd:Sgd", "the gradient itself on a noiseless channel"),
        "z-sgd": Entry("laser_fl.schemes.z_sgd:ZSgd", "the gradient itself"),
        "laser": Entry("laser_fl.schemes.laser:Laser", "low-rank factors, with error feedback"),
    }
)
