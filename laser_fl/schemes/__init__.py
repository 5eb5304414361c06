"""What is sent: one file per scheme."""

from laser_fl.tables import Entry, Table

SCHEMES = Table(
    {
        "sgd": Entry("laser_fl.schemes.z_sgd:Sgd", "the gradient itself on a noiseless channel"),
        "z-sgd": Entry("laser_fl.schemes.z_sgd:ZSgd", "the gradient itself"),
        "signum": Entry("laser_fl.schemes.signum:Signum", "the gradient's signs"),
        "random-k": Entry("laser_fl.schemes.random_k:RandomK", "a random part of the values, with error feedback"),
        "sketch": Entry("laser_fl.schemes.sketch:Sketch", "count-mean sketch of the gradient"),
        "a-dsgd": Entry("laser_fl.schemes.a_dsgd:ADsgd", "the largest values, projected, with error feedback"),
        "d-dsgd": Entry("laser_fl.schemes.d_dsgd:DDsgd", "digital: the largest values that fit, with error feedback"),
        "laser": Entry("laser_fl.schemes.laser:Laser", "low-rank factors, with error feedback"),
        "laser-adaptive": Entry(
            "laser_fl.schemes.laser_adaptive:LaserAdaptive",
            "ours: a factor along what was heard, and what else the power carries",
        ),
    }
)
