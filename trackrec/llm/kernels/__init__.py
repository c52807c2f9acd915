"""Faster attention and LoRA."""
