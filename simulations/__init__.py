"""Running laser-fl: engines, presets, comparisons, the command line."""
