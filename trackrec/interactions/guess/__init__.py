"""Guesses about files that nobody has described: their form, what their columns hold, what counts as a like."""
