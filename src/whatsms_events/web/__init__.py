"""HTTP in. Only this package says with which status a request is answered."""
