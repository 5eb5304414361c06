"""Power: how a run's budget is spread over rounds, blocks and signals."""
