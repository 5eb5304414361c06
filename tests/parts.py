"""Parts from outside the package in tests, of which nothing stays behind."""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

from laser_fl.registry import KINDS
from laser_fl.registry.outside import load_plugins


@contextmanager
def visiting(folder):
    """Let the body import modules of a folder and register parts; at its end, all is as before."""
    outside = {key: dict(table.outside) for key, table in KINDS.items()}
    path, modules = list(sys.path), set(sys.modules)
    importlib.invalidate_caches()
    load_plugins.cache_clear()
    try:
        yield
    finally:
        load_plugins.cache_clear()
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]
        for key, table in KINDS.items():
            table._outside.clear()
            table._outside.update(outside[key])
