"""How LASER's factors get to the server: one file per exchange."""

from laser_fl.tables import Entry, Table

EXCHANGES = Table(
    {
        "alternating": Entry(
            "laser_fl.schemes.exchanges.alternating:Alternating",
            "one factor a round, in turn (the paper's experiments)",
        ),
        "two-phase": Entry(
            "laser_fl.schemes.exchanges.two_phase:TwoPhase", "both factors in one round, one after the other (PowerSGD)"
        ),
        "one-shot": Entry(
            "laser_fl.schemes.exchanges.one_shot:OneShot",
            "both factors in one transmission (Algorithm 1 to the letter)",
        ),
    }
)
