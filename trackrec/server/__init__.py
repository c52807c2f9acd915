"""Answers requests over HTTP from a bundle and a store; no torch in the process."""
