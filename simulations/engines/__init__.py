"""Engines: how broadcasts reach the clients and uplinks come back. They repeat no maths."""
