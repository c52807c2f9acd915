"""The arms: which texts each reads, the placebos, and how the arms are compared."""
