"""Figures and tables that one command makes: one file per item, and this table."""

from laser_fl.tables import Entry, Table

FIGURES = Table(
    {
        "channels": Entry("simulations.figures.channels:CHANNELS", "accuracy over power, channel by channel"),
    }
)
