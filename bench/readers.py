"""So many readers of the event feed in one process: python bench/readers.py PORT READERS AFTER.

It prints `open` when all have their first bytes, and when its input ends a line of JSON: how many bytes and events
they had together, and the position of the slowest and of the fastest one.
"""

import json
import re
import selectors
import socket
import sys
from dataclasses import dataclass, field
from typing import Final

PIECE: Final = 256 * 1024
ID: Final = re.compile(rb"\nid: ([0-9]+)-")


@dataclass(slots=True)
class One:
    """A reader: what it had so far, and the end of that, since an id may come in two pieces."""

    connection: socket.socket
    opened: bool = False
    size: int = 0
    events: int = 0
    position: int = 0
    end: bytes = field(default=b"")

    def read(self) -> None:
        """Take what came; raise ConnectionError where the feed ended."""
        came = self.connection.recv(PIECE)
        if not came:
            raise ConnectionError("a feed has ended")
        if not self.opened and b"text/event-stream" not in came:
            raise ConnectionError(came[:200].decode(errors="replace"))
        self.opened = True
        self.size += len(came)
        found = ID.findall(self.end + came)
        if found:
            self.events += len(found)
            self.position = int(found[-1])
        # No id is counted twice: this end is shorter than one, and only begins one.
        self.end = came[came.rfind(b"\n", -40) :] if b"\n" in came[-40:] and not ID.search(came[-40:]) else b""


def opened(port: int, after: int) -> One:
    """Open a feed."""
    connection = socket.create_connection(("127.0.0.1", port))
    request = f"GET /api/v1/stream?after={after} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    connection.sendall(request.encode())
    return One(connection, position=after)


def main() -> None:
    """Read until the input ends."""
    port, count, after = map(int, sys.argv[1:])
    readers, waiting = [opened(port, after) for _ in range(count)], selectors.DefaultSelector()
    for reader in readers:
        waiting.register(reader.connection, selectors.EVENT_READ, reader)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    said = False
    while True:
        for key, _ in waiting.select():
            if key.data is None:
                places = [one.position for one in readers]
                total = {"size": sum(one.size for one in readers), "events": sum(one.events for one in readers)}
                print(json.dumps(total | {"slowest": min(places), "fastest": max(places)}), flush=True)
                return
            key.data.read()
        if not said and all(one.opened for one in readers):
            said = True
            print("open", flush=True)


if __name__ == "__main__":
    main()
