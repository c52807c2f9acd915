"""Generation of RecCoTs by G."""
