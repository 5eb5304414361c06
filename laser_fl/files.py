"""The names of the files in a run's folder."""

CONFIG, METRICS, LEDGER, TIMING = "config.json", "metrics.csv", "ledger.csv", "timing.csv"
SUMMARY, WEIGHTS = "summary.json", "weights.safetensors"
ENVIRONMENT, SPECTRUM, CHECKPOINTS = "environment.json", "spectrum.csv", "checkpoints"
