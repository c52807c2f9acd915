"""Trains one adapter: batches, micro-batches, checkpoints, several processes."""
