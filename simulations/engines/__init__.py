"""Engines: they carry broadcasts to the clients and replies back, and repeat no mathematics."""
