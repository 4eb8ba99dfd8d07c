"""WhatSMS's REST API as a typed client; `README.md` beside this file shows its use. Begin at `client.Client`."""
