"""Loops over one bounded piece of work: `run_once()` does a piece, `run(stop)` repeats it."""
