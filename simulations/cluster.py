"""A Ray cluster that lasts as long as something runs on it."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from simulations.private import own_ray, private_folder
from simulations.proxies import direct
from simulations.signals import ending_on_signals


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address`; None: to one that starts here and ends here.

    The latter serves this process only, and keeps its files in a folder that only this user may enter.
    """
    os.environ.update(direct(os.environ))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default of Ray, which warns otherwise
    with ExitStack() as stack:
        options = {"address": address}
        if address == "local" or (address is None and "RAY_ADDRESS" not in os.environ):
            os.environ.update(own_ray(os.environ))
            options = {"address": "local", "_temp_dir": str(stack.enter_context(private_folder()))}
        import ray

        stack.enter_context(ending_on_signals())
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)
            with ending_on_signals():  # again: Ray has replaced the handler by its own
                yield ray
        finally:
            ray.shutdown()
