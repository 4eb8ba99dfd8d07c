"""`backfill run`, `status` and `stop`: a run in the foreground, and what a person sees of it."""
