"""From tables to the tensors that nets read."""
