"""Power: the split of a run's budget over rounds, blocks and signals."""
