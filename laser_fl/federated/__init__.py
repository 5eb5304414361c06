"""The two sides of a run: server and clients, round by round."""
