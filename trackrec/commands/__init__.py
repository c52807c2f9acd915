"""One file per command: its help line ``HELP``, its own arguments ``add_arguments``, and what it runs, ``run``."""
