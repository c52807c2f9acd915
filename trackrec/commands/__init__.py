"""One file per command: its own arguments ``add_arguments``, and what it runs, ``run``."""
