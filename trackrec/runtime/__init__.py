"""Parts that have nothing to do with recommenders: errors, versions, memory, terminal text."""
