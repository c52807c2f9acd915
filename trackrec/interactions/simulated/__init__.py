"""A simulated world whose tastes and probabilities are known."""

from trackrec.interactions.simulated.source import Simulated

__all__ = ["Simulated"]
