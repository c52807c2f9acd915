"""Faster forms of attention and LoRA."""
