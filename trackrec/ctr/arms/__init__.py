"""What a net may read of the texts, the placebos, and what the arms say in the end."""
