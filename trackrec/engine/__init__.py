"""Engines: they run named parts of a large work in several processes, on this machine or on a cluster."""
