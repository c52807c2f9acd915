"""Writes and scores texts with vLLM in a process of its own."""
