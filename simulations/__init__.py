"""Tools that run laser-fl: engines, presets, comparisons, the command line."""
