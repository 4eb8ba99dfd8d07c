"""This module parses a PostgreSQL URL. The URL may name several servers with commas, of which one takes writes."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

PORT: Final = 5432
WRITABLE: Final = "target_session_attrs", ("read-write", "primary")
"""How libpq names what we always do: of several servers, use the one that takes writes."""

_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/,\s]+)(:(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """The servers in order, the user, and the database; without `user` it is the user of the process."""

    user: str | None
    hosts: tuple[tuple[str, int], ...]
    database: str

    @property
    def place(self) -> str:
        """Return what an error calls it."""
        return f"{','.join(f'{host}:{port}' for host, port in self.hosts)}/{self.database}"


def parse(url: str) -> PostgresUrl | None:
    """Return the parts, None where it has not the form postgresql://user@host:5432,other:5432/name."""
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    found = [_HOST.fullmatch(one) for one in hosts.split(",")]
    places = tuple((one["host"].strip("[]"), int(one["port"] or PORT)) for one in found if one is not None)
    named = re.fullmatch(r"/[^/]+", parts.path) is not None
    if not named or len(places) < len(found) or any(not 0 < port < 65536 for _, port in places):
        return None
    return PostgresUrl(unquote(user) or None, places, unquote(parts.path[1:]))


def asks_for_writable(query: str) -> bool:
    """Tell whether a URL's query asks for the server that takes writes, and for nothing else."""
    name, values = WRITABLE
    return all(key == name and value in values for key, value in parse_qsl(query, keep_blank_values=True))
