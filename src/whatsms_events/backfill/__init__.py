"""REST API -> event log: reads what the vendor has, compares, and appends an observation where something differs."""
