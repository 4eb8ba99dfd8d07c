"""The REST API of the twin, with the vendor's pages and limits, and faults on demand."""
