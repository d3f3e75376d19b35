"""Flags in, artifacts out: one file per command. Heavy imports stand inside functions."""
