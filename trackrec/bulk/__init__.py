"""Texts for every user: who needs one, who writes it, and generations of the result."""
