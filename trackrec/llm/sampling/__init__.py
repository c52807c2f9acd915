"""Writes texts with a language model."""
