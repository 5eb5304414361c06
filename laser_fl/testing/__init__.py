"""Checks of the promises that every scheme and every channel keeps, for anybody's own parts.

They need no test framework: call one in a test, or by hand.
"""

from laser_fl.testing.channels import check_channel
from laser_fl.testing.promises import BrokenPromiseError
from laser_fl.testing.schemes import check_scheme

__all__ = ["BrokenPromiseError", "check_channel", "check_scheme"]
