"""Measurements of speed: `make bench`, or each module by `python -m`."""
