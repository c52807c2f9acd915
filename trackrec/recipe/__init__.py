"""The order of the stages, and who takes part in them."""
