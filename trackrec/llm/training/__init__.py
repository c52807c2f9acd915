"""Training of one adapter: batches, micro-batches, checkpoints, DDP."""
