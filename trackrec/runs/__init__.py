"""What reports and monitors read of a run directory."""
