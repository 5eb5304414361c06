"""How A-DSGD's server gets the sparse mean back: one file per recovery.

A recovery maps (projection of the mean plus noise, noise standard deviation, projection) to an
estimate of the mean.
"""

from laser_fl.tables import Entry, Table

RECOVERIES = Table(
    {
        "lmmse": Entry(
            "laser_fl.schemes.recoveries.lmmse:lmmse", "linear minimum mean-square error (the paper's pseudo-inverse)"
        ),
        "amp": Entry(
            "laser_fl.schemes.recoveries.amp:amp", "approximate message passing, which knows that it is sparse"
        ),
    }
)
