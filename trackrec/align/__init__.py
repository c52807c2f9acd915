"""Alignment of the generator (G): preference sets from the validator's (V's) scores, and S-DPO on them."""
