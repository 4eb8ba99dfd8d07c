"""How many examples a law of Hypothesis gets where it does not want the profile's own number."""

import os


def examples(count: int) -> int:
    """Return so many, or ten at most in `make check`, whose profile is "quick"."""
    return min(count, 10) if os.environ.get("HYPOTHESIS_PROFILE") == "quick" else count
