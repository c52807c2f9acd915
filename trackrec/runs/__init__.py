"""Reading a run directory, for reports and monitors."""
