"""The row about the console: how long its pages take where there are very many tickets (`--events` of them)."""

import sqlite3
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
from bench import targets
from bench.load import FailedError
from bench.report import Bar, Finding
from bench.stage import Stage

from servers.service import SLUG, TENANT
from whatsms_events.clock import now
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.search import searched
from whatsms_events.storage.tables import FOUND_BY

QUICK: Final = Bar(200, 100, below=True)
ASKED: Final = 60
"""How often each page is asked for in a round."""

PER_TICKET: Final = 2
"""Messages of a ticket; one ticket has LONG_TALK more."""

LONG_TALK: Final = 2_000
EVENTS_LIMIT: Final = 200_000
"""Events in the log: a passport looks through 100,000 of them at most."""

NAMES: Final = ("João Silva", "Maria Souza", "José Santos", "Ana Oliveira", "Antônio Lima", "Zoë Prado", "Rui Costa")
STATUSES: Final = ("open", "pending", "closed", "closed", "closed")
DAY: Final = 86_400_000_000

PAGES: Final[Mapping[str, tuple[str, dict[str, object]]]] = {
    "Now": ("/", {}),
    "tickets by status and age": ("/conversations", {}),
    "closed tickets, the oldest": ("/conversations", {"status": "closed", "age": 4}),
    "found by a common name": ("/conversations", {"find": "joao"}),
    "found by the end of a number": ("/conversations", {"find": "4321"}),
    "found by nothing": ("/conversations", {"find": "nobody has this name"}),
    "a long conversation": ("/conversations/ticket", {"tenant": SLUG, "id": "t0"}),
    "acks of a day": ("/acks", {"hours": 24}),
    "acks of a month": ("/acks", {"hours": 744}),
    "the passport of a ticket": ("/passport", {"find": "t1", "kind": "ticket"}),
    "the passport of an event": ("/passport", {"find": UUID(int=1)}),
}
"""Each page that is measured, by what a person calls it."""


async def console(stage: Stage) -> list[Finding]:
    """Time the console's pages with `--events` tickets: of each the 95th percentile, which must be below 200 ms."""
    folder = stage.new_folder()
    made = targets.service(folder, roles="receiver,consumer")
    async with targets.running(made, stage.cores.server):
        pass  # it makes the tables
    fill(folder, stage.events)
    found: dict[str, list[float]] = {name: [] for name in PAGES}
    async with targets.running(made, stage.cores.server), aiohttp.ClientSession(made.private_url) as session:
        for _ in range(stage.rounds):
            for name, (path, query) in PAGES.items():
                found[name].append(await _round(session, f"{path}?{urlencode(query)}"))
    about = f"{stage.events} tickets"
    return [
        Finding("console", f"{name}, {about}", "", values, unit="ms at the 95th percentile", bar=QUICK)
        for name, values in found.items()
    ]


async def _round(session: aiohttp.ClientSession, path: str) -> float:
    """Ask for a page so often, one after the other, and return the 95th percentile in milliseconds."""
    took = []
    for _ in range(ASKED):
        started = time.perf_counter()
        async with session.get(path) as answer:
            await answer.read()
            if answer.status != 200:
                raise FailedError(f"console: {path} is answered with {answer.status}")
        took.append((time.perf_counter() - started) * 1000)
    return statistics.quantiles(took, n=20)[-1]


def fill(folder: Path, tickets: int) -> None:
    """Write the rows straight into the files of a service that is not running: through events it would take hours."""
    at = to_micros(now())
    contacts = max(1, tickets // 2)
    with closing(_quick(folder / "projection.db")) as file, file:
        file.executemany(_insert("contact", "tenant", "id", "name", "number", *FOUND_BY), _contacts(contacts))
        ticket = ("tenant", "id", "status", "channel", "contact_id", "last_message", "created_at", "updated_at")
        file.executemany(_insert("ticket", *ticket), _tickets(tickets, contacts, at))
        message = (
            "tenant",
            "id",
            "ticket_id",
            "from_me",
            "body",
            "created_at",
            "ack",
            "sent_at",
            "delivered_at",
            "read_at",
        )
        file.executemany(_insert("message", *message), _messages(tickets, at))
        file.execute("ANALYZE")
    with closing(_quick(folder / "log.db")) as file, file:
        columns = ("id", "type", "tenant", "received_at", "origin", "subject", "ticket_id", "sha256", "data", "raw")
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO event_log ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
        file.executemany(statement, _events(min(tickets, EVENTS_LIMIT), at))


def _quick(path: Path) -> sqlite3.Connection:
    """Open a file for one large transaction that nobody takes back; a service that opens it sets its own ways again."""
    file = sqlite3.connect(path)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        file.execute(f"PRAGMA {pragma}")
    return file


def _insert(table: str, *columns: str) -> str:
    """Return the statement; `known`, `doubtful` and `versions` are the same in each row."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} (known, doubtful, versions, {', '.join(columns)}) VALUES (1, 0, '{{}}', {marks})"  # noqa: S608 - names of ours


def _contacts(count: int) -> Iterator[tuple[object, ...]]:
    for one in range(count):
        name, number = f"{NAMES[one % len(NAMES)]} {one}", f"55119{one * 7919 % 10**8:08}"
        yield TENANT, f"c{one}", name, number, *searched({"name": name, "number": number})


def _tickets(count: int, contacts: int, at: int) -> Iterator[tuple[object, ...]]:
    for one in range(count):
        made = at - one * 60 * DAY // count
        yield TENANT, f"t{one}", STATUSES[one % 5], "whatsapp", f"c{one % contacts}", "Obrigado!", made, made + 1


def _messages(tickets: int, at: int) -> Iterator[tuple[object, ...]]:
    total = tickets * PER_TICKET
    for one in range(total + LONG_TALK):
        ticket, ours = (one % tickets if one < total else 0), one % 2 == 0
        made = at - one * 60 * DAY // (total + LONG_TALK)
        stuck = one % 1000 == 0
        times = (made + 900_000, *((None, None) if stuck else (made + 5_000_000, made + 70_000_000)))
        ack = (2 if stuck else 4, *times) if ours else (None,) * 4
        yield TENANT, f"m{one}", f"t{ticket}", ours, "Olá! A encomenda chega hoje às 15:00?", made, *ack


def _events(count: int, at: int) -> Iterator[tuple[object, ...]]:
    for one in range(1, count + 1):
        data = f'{{"ticket":{{"id":"t{one}","status":"open"}}}}'
        yield (
            UUID(int=one).hex, "ticket.updated", TENANT, at, "webhook", f"t{one}", f"t{one}", bytes(32), data,
            data.encode(),
        )  # fmt: skip
