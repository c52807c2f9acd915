"""What a run understood of its ratings; one look for the terminal and the report."""
