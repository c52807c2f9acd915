"""One file per kind of stage: the keys that decide it, the stages it reads, and what it does."""
