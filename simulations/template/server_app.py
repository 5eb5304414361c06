"""The server: it takes task, strategy, channel and all other settings from the run config."""

from strategies.server_app import app

__all__ = ["app"]  # by which Flower finds it without importing anything
