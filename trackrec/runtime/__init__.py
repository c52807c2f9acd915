"""What any program needs, and what knows no recommender: errors, versions, memory, terminal text."""
