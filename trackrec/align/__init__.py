"""Alignment of G: preference sets from V's scores, and S-DPO on them."""
