"""Connectors: they map a text vector to the input of a net."""
