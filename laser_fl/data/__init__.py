"""Tasks: data, loss and metric; who holds which examples, and in which order."""
