"""Scores, intervals and text statistics."""
