"""One process of the service: its parts are made here, started in order, and stopped in order."""
