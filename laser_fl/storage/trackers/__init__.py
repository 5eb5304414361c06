"""Trackers, which log a run besides its own folder; one file each."""
