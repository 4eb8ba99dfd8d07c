"""The demo: the service and the twin in one process, a view of them, and the proof at the end."""
