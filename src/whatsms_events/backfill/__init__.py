"""Reads the vendor's REST API, compares, and appends an observation to the event log where something differs."""
