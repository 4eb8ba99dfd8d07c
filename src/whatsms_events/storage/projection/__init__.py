"""The projection's tables: apply events with their checkpoint in one transaction, and say what is held."""
