"""Training: the one loop, what it minimises, and one file per command that trains."""
