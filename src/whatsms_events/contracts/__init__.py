"""Contracts for machines: JSON Schema of every event, AsyncAPI of topics and webhook, OpenAPI of the HTTP interfaces.

`documents` makes them all from the code's own types, `published` reads what was made, `breaking` compares two of them.
"""
