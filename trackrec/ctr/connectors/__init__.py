"""From a text vector to what a net reads of it."""
