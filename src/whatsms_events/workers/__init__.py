"""What goes on for as long as the process does: `run_once()` does one bounded piece, `loop` repeats it."""
