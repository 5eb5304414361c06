"""Tasks: data, loss and metric; the partition of the examples over clients, and their order."""
