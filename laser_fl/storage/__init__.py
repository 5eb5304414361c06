"""Files of a run: its folder, checkpoints, trackers."""
