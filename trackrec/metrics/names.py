"""Names in the metrics table that several stages read."""

from __future__ import annotations

TEXT_USE = "text_use"
"""How much V reads: see `trackrec.validator.evaluate.text_use`."""
