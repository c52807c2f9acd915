"""The generator (G) writes RecCoTs."""
