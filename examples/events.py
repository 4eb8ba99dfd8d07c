"""Follow the event log over the read API, without Kafka: print each event once, also after a restart.

    python examples/events.py http://127.0.0.1:8081 place.txt
    python examples/events.py http://127.0.0.1:8081 place.txt --until-end

It needs Python alone. The place is saved after a page was printed, so a crash in between prints that page again. A
program that must not do a thing twice saves the place in the same transaction as its work.
"""

import argparse
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

WAIT_S: Final = 1.0
"""How long to wait for new events at the end of the log."""


def page(address: str, after: int) -> Any:
    """Return the next events behind a position."""
    request = urllib.request.Request(f"{address}/api/v1/events?after={after}&limit=500")
    if token := os.environ.get("WHATSMS_EVENTS_PRIVATE__TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def main() -> None:
    """Follow the log for ever, or until its end."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("address")
    asked.add_argument("place", type=Path)
    asked.add_argument("--until-end", action="store_true")
    given = asked.parse_args()
    after = int(given.place.read_text()) if given.place.exists() else 0
    while True:
        shown = page(given.address, after)
        for event in shown["events"]:
            sys.stdout.write(f"{event['position']} {event['type']} {event['subject']}\n")
        sys.stdout.flush()
        after = shown["next"]
        given.place.write_text(str(after))
        if after >= shown["end"]:
            if given.until_end:
                return
            time.sleep(WAIT_S)


if __name__ == "__main__":
    main()
