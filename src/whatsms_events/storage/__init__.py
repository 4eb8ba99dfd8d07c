"""All SQL: what opens and checks the databases, and the verbs on their tables."""
