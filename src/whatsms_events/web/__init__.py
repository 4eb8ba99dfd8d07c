"""HTTP in. Only this package knows status codes."""
