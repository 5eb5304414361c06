"""How a round's power is split over the model's blocks.

An allocation maps (signal norms, gradient norms, sizes) to shares that sum to 1.
"""

from laser_fl.tables import Entry, Table

ALLOCATIONS = Table(
    {
        "signal-norm": Entry(
            "laser_fl.allocations.paper:signal_norm", "by the norm of what is sent (the paper's best)"
        ),
        "uniform": Entry("laser_fl.allocations.paper:uniform", "the same for every block"),
        "gradient-norm": Entry("laser_fl.allocations.paper:gradient_norm", "by the norm of the corrected gradient"),
        "gradient-norm-squared": Entry("laser_fl.allocations.paper:gradient_norm_squared", "by its energy"),
        "min-mse": Entry("laser_fl.allocations.min_mse:min_mse", "least summed noise, P_l by c_l sqrt(d_l)"),
    }
)
