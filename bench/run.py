"""Measure what is fast, as ratios: `python bench/run.py ingest startup --rounds 5 --seconds 2`; see README.md here."""

import sys
from pathlib import Path

# The bench starts PostgreSQL, Kafka and the service as the tests do.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.command import main

if __name__ == "__main__":
    sys.exit(main())
