"""Grids: studies that run recipes, from a TOML file that says what is claimed, run, measured and read."""
