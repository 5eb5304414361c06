"""A Ray cluster that lasts as long as something runs on it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simulations.proxies import direct
from simulations.signals import ending_on_signals


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address`; None: to one that starts here and ends here."""
    os.environ.update(direct(os.environ))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default of Ray, which warns otherwise
    import ray

    with ending_on_signals():
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            with ending_on_signals():  # again: Ray has replaced the handler by its own
                yield ray
        finally:
            ray.shutdown()
