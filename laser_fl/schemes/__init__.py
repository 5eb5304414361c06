"""Transmission schemes, one file each."""
