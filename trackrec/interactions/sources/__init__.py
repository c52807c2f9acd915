"""Readers of rating files."""
