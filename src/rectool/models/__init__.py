"""Collaborative models: networks and counts, torch only. `table.py` lists them, `model.py` is their contract."""
