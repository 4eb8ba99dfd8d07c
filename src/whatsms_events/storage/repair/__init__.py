"""The backfill's tables: how far a run got, what it still has to look at, and what it found."""
