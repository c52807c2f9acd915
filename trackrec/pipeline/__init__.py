"""An engine that runs stages, skips what is done and goes on after a crash; it knows no recommender."""
