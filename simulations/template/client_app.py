"""A node of clients: they train the task of the run config on their share of the data."""

from clients.client_app import app

__all__ = ["app"]  # by which Flower finds it without importing anything
