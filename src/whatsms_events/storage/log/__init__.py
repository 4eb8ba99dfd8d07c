"""The event log's tables: append a batch, read on from a position, keep what was parked and what was published."""
