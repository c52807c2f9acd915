"""From ratings to histories and labelled samples."""
