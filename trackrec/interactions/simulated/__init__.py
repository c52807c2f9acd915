"""A made-up world whose tastes and probabilities are known."""
