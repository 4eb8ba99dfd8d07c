"""Follow the event feed: print what contacts wrote as it comes, each message once, also after a restart of either side.

    python examples/feed.py http://127.0.0.1:8081 place.txt
    python examples/feed.py http://127.0.0.1:8081 place.txt --messages 2

It needs this package, of which `whatsms_events.consume` is all it uses. The place is saved after a message was printed,
so a crash in between prints that one again. A program that must not do a thing twice saves the place in the same
transaction as its work.
"""

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Final

from whatsms_events.consume import FeedReader, from_json
from whatsms_events.domain.events import MessagePayload
from whatsms_events.errors import InvalidEventError

SILENCE_S: Final = 60.0
"""The feed sends something every 15 seconds, so after a minute of silence the connection is lost."""

WAIT_S: Final = 3.0
"""How long to wait before the feed is asked for again."""


def rows(address: str, feed: FeedReader) -> Iterator[str]:
    """Yield events behind the reader's last id until the feed breaks off; a refusal other than 503 is raised."""
    request = urllib.request.Request(f"{address}/api/v1/stream?type=message.received")
    if last_id := feed.reopen():
        request.add_header("Last-Event-ID", last_id)
    if token := os.environ.get("WHATSMS_EVENTS_PRIVATE__TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_S) as answer:
            for line in answer:
                sent = feed.line(line)
                if sent is not None and not sent.ended:
                    yield sent.data
    except urllib.error.HTTPError as exc:
        if exc.code != 503:
            raise
    except (OSError, HTTPException):
        pass  # away, or cut off: nothing is lost by that


def told(row: str) -> str:
    """Return a line about an event."""
    try:
        consumed = from_json(row)
    except InvalidEventError as exc:
        return f"no event: {exc.reason}"  # of a later release
    body = consumed.data.message.body if isinstance(consumed.data, MessagePayload) else None
    return f"{consumed.position} {consumed.event.ticket_id} wrote {body}"


def main() -> None:
    """Follow the feed for ever, or until there were so many messages."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("address")
    asked.add_argument("place", type=Path)
    asked.add_argument("--messages", type=int, default=0)
    given = asked.parse_args()
    feed, left = FeedReader(given.place.read_text() if given.place.exists() else ""), given.messages
    while True:
        for row in rows(given.address, feed):
            sys.stdout.write(f"{told(row)}\n")
            sys.stdout.flush()
            given.place.write_text(feed.last_id)
            left -= 1
            if left == 0:
                return
        time.sleep(WAIT_S)


if __name__ == "__main__":
    main()
