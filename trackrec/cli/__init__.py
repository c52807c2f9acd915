"""The command line: its parser, its errors, and the entry of a stage's worker processes."""
