"""Trains one net on one arm."""
