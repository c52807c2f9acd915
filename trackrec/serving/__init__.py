"""Requests to a trained recommender: predictions, and the export of its nets."""
