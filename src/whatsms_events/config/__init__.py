"""Configuration: what settings there are, where each comes from, and what cannot be."""
