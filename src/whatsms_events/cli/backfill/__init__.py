"""`backfill run` and `backfill status`: a run in the foreground, and what a person sees of it."""
