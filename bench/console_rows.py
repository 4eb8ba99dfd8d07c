"""The rows that the console is measured with, written past the service: through events they would take hours.

SQLite's files are written while no service has them open, PostgreSQL by COPY.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from servers.service import TENANT
from whatsms_events.clock import now
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.search import searched
from whatsms_events.storage.tables import FOUND_BY

PER_TICKET: Final = 2
"""Messages of a ticket; one ticket has LONG_TALK more."""

LONG_TALK: Final = 2_000
EVENTS_LIMIT: Final = 200_000
"""Events in the log: a passport looks through 100,000 of them at most."""

PARKED_LIMIT: Final = 100_000
"""Deliveries that are parked, and as many events: so many come where a sender changes, and nobody looks for days."""

RARE_EACH: Final = 1_000
"""Of so many parked things one is there for the rare reason; so it is with differences and the rare kind."""

DISCARDED_EACH: Final = 4
ALONE, TOGETHER = 2_000, 10_000
"""Of the first ones each was discarded alone, the others so many at a time."""

FINISHED_RUNS: Final = 20
"""As many as are kept; the last of them found the most."""

DRIFT_LIMIT: Final = 50_000
BODY: Final = b'{"event":"message.received","data":{"message":{"body":"' + b"Ol\xe1! " * 130

NAMES: Final = ("João Silva", "Maria Souza", "José Santos", "Ana Oliveira", "Antônio Lima", "Zoë Prado", "Rui Costa")
STATUSES: Final = ("open", "pending", "closed", "closed", "closed")
DAY: Final = 86_400_000_000
SECOND: Final = 1_000_000
LASTED: Final = DAY // 3
"""How long a run took."""

LAST_RUN: Final = FINISHED_RUNS
DOOR_REASON, FOLD_REASON, RARE_REASON, RARE_KIND = "not_utf8", "data", "no_id", "doubtful"
LOOKED_AT: Final = "t1"
"""The ticket whose passport and difference are asked for: the log has its first row, and what the last run repaired."""

SPAN: Final = 60 * DAY
"""So old the oldest of everything is."""

REPAIRED: Final = SECOND
"""How long after a difference was found its observation is in the log."""

Record = Sequence[object]


class Rows(NamedTuple):
    """Rows of one table, as both databases take them."""

    table: str
    columns: Sequence[str]
    rows: Iterable[Record]


def of_log(tickets: int) -> Iterator[Rows]:
    """Yield what the log's database is filled with."""
    at = to_micros(now())
    events = min(tickets, EVENTS_LIMIT)
    names = ("id", "type", "tenant", "received_at", "origin", "subject", "ticket_id", "sha256", "data", "raw")
    yield Rows("event_log", names, _events(events, at))
    parked = ("id", "tenant", "reason", "detail", "received_at", "sha256", "raw", "count", "discarded_at")
    yield Rows("parked_delivery", parked, _parked_deliveries(min(tickets, PARKED_LIMIT), at))
    run = ("run", "tenant", "kind", "cause", "options", "generation", "started_at", "updated_at", "finished_at")
    yield Rows("backfill_run", (*run, "progress", "report"), _runs(tickets, at))
    item = ("run", "entity", "id", "state", "due_at", "log_end", "rounds", "messages")
    yield Rows("backfill_item", item, _items(tickets, at))
    drift = ("run", "entity", "id", "kind", "fields", "age_s", "found_at")
    yield Rows("backfill_drift", drift, _drift(min(tickets, DRIFT_LIMIT), at))


def of_projection(tickets: int) -> Iterator[Rows]:
    """Yield what the projection's database is filled with."""
    at = to_micros(now())
    contacts = max(1, tickets // 2)
    contact = ("tenant", "id", "name", "number", *FOUND_BY)
    yield _entity("contact", contact, _contacts(contacts))
    ticket = ("tenant", "id", "status", "channel", "contact_id", "last_message", "created_at", "updated_at")
    yield _entity("ticket", ticket, _tickets(tickets, contacts, at))
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
    yield _entity("message", message, _messages(tickets, at))
    parked = (
        "source",
        "at",
        "event_id",
        "position",
        "tenant",
        "type",
        "reason",
        "detail",
        "parked_at",
        "raw",
        "headers",
    )
    yield Rows("parked_event", (*parked, "discarded_at"), _parked_events(min(tickets, PARKED_LIMIT), at))


def caught_up(tickets: int, log_id: object) -> str:
    """Return the statement that sets the projection's place to the log's end, so that nothing is applied meanwhile."""
    last = min(tickets, EVENTS_LIMIT) + 1
    place = f"position = {last}, applied_through = {last}, event_id = '{UUID(int=last).hex}', log_id = '{log_id}'"
    return f"UPDATE projection SET {place}"  # noqa: S608 - values of ours


def write_files(folder: Path, tickets: int) -> None:
    """Fill the two files of a service that is not running, each in one transaction that nobody takes back."""
    with closing(_quick(folder / "log.db")) as file, file:
        for made in of_log(tickets):
            _into(file, made)
        file.execute("ANALYZE")
        (log_id,) = file.execute("SELECT log_id FROM log").fetchone()
    with closing(_quick(folder / "projection.db")) as file, file:
        for made in of_projection(tickets):
            _into(file, made)
        file.execute(caught_up(tickets, log_id))
        file.execute("ANALYZE")


async def write_database(url: str, tickets: int) -> None:
    """Fill a database of PostgreSQL that has its tables."""
    connection = await asyncpg.connect(url)
    try:
        for made in (*of_log(tickets), *of_projection(tickets)):
            await connection.copy_records_to_table(made.table, columns=made.columns, records=made.rows)
        await connection.execute(caught_up(tickets, await connection.fetchval("SELECT log_id FROM log")))
        await connection.execute("VACUUM ANALYZE")  # as autovacuum does within minutes
    finally:
        await connection.close()


def _quick(path: Path) -> sqlite3.Connection:
    """Open a file for one large transaction; a service that opens it sets its own ways again."""
    file = sqlite3.connect(path)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        file.execute(f"PRAGMA {pragma}")
    return file


def _into(file: sqlite3.Connection, made: Rows) -> None:
    marks = ", ".join("?" * len(made.columns))
    statement = f"INSERT INTO {made.table} ({', '.join(made.columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
    file.executemany(statement, (tuple(map(_for_sqlite, row)) for row in made.rows))


def _for_sqlite(value: object) -> object:
    return value.hex if isinstance(value, UUID) else value


def _entity(table: str, columns: Sequence[str], rows: Iterator[Record]) -> Rows:
    """Return an entity's rows; `known`, `doubtful` and `versions` are the same in each."""
    return Rows(table, ("known", "doubtful", "versions", *columns), ((True, False, "{}", *row) for row in rows))


def _contacts(count: int) -> Iterator[Record]:
    for one in range(count):
        name, number = f"{NAMES[one % len(NAMES)]} {one}", f"55119{one * 7919 % 10**8:08}"
        found_by = searched({"name": name, "number": number})
        yield TENANT, f"c{one}", name, number, *found_by


def _tickets(count: int, contacts: int, at: int) -> Iterator[Record]:
    for one in range(count):
        made = at - one * SPAN // count
        yield TENANT, f"t{one}", STATUSES[one % 5], "whatsapp", f"c{one % contacts}", "Obrigado!", made, made + 1


def _messages(tickets: int, at: int) -> Iterator[Record]:
    total = tickets * PER_TICKET
    for one in range(total + LONG_TALK):
        ticket, ours = (one % tickets if one < total else 0), one % 2 == 0
        made = at - one * SPAN // (total + LONG_TALK)
        stuck = one % 1000 == 0
        times = (made + 900_000, *((None, None) if stuck else (made + 5_000_000, made + 70_000_000)))
        ack = (2 if stuck else 4, *times) if ours else (None,) * 4
        yield TENANT, f"m{one}", f"t{ticket}", ours, "Olá! A encomenda chega hoje às 15:00?", made, *ack


def _events(count: int, at: int) -> Iterator[Record]:
    """Yield webhooks in the order in which they came, and among them what the last run repaired of one ticket."""
    repaired_at = _found_at(LAST_RUN, int(LOOKED_AT[1:]), min(count, DRIFT_LIMIT), at) + REPAIRED
    repaired = 0
    for one in range(1, count + 1):
        came = at - (count - one) * (SPAN // count)
        if came > repaired_at and not repaired:
            yield _event(one, "ticket.observed", "backfill", LOOKED_AT, repaired_at)
            repaired = 1
        yield _event(one + repaired, "ticket.updated", "webhook", f"t{one}", came)


def _event(number: int, kind: str, origin: str, ticket: str, at: int) -> Record:
    data = f'{{"ticket":{{"id":"{ticket}","status":"open"}}}}'
    return UUID(int=number), kind, TENANT, at, origin, ticket, ticket, bytes(32), data, data.encode()


def _parked_deliveries(count: int, at: int) -> Iterator[Record]:
    for one in range(count):
        came = at - (count - one) * SECOND
        detail, seen = "byte 56", one % 3 + 1
        yield (
            UUID(int=one + 1),
            TENANT,
            _reason(one, DOOR_REASON),
            detail,
            came,
            bytes(32),
            BODY,
            seen,
            _gone(one, at),
        )


def _parked_events(count: int, at: int) -> Iterator[Record]:
    for one in range(1, count + 1):
        came = at - (count - one) * SECOND
        event = UUID(int=one), one, TENANT, "message.received", _reason(one, FOLD_REASON), "ValidationError"
        yield "log", one, *event, came, BODY, "[]", _gone(one, at)


def _reason(number: int, usual: str) -> str:
    return RARE_REASON if number % RARE_EACH == 0 else "unknown_event" if number % 3 == 0 else usual


def _gone(number: int, at: int) -> int | None:
    """Return when it was discarded, None for three of four: an hour before the next, some of them each alone."""
    if number // 7 % DISCARDED_EACH:
        return None
    return at - number * SECOND if number < ALONE else at - (number // TOGETHER + 1) * 3600 * SECOND


def _runs(tickets: int, at: int) -> Iterator[Record]:
    """Yield those that have ended, each night one, and one under way that has read half of what it is about."""
    found = min(tickets, DRIFT_LIMIT)
    counts = [{"entity": "ticket", "kind": kind, "age": "under_1d", "count": found} for kind in ("stale", RARE_KIND)]
    report = _json({"requests": tickets // 100, "looked_at": {"ticket": tickets}, "drift": counts})
    for run in range(1, FINISHED_RUNS + 1):
        began = _began(run, at)
        ended = began + LASTED
        yield run, TENANT, "reconcile", "interval", "{}", 1, began, ended, ended, "{}", report
    counted = {"remaining": tickets, "unread": tickets * 3 // 4}
    progress = _json({"phase": "details", "requests": tickets // 2, "expected": tickets * 3 // 2, "items": counted})
    began = at - DAY // 6
    yield FINISHED_RUNS + 1, TENANT, "reconcile", "interval", "{}", 1, began, at, None, progress, None


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _items(tickets: int, at: int) -> Iterator[Record]:
    """Yield an item for each ticket and each contact of the run under way: some are read and some compared."""
    run, states = FINISHED_RUNS + 1, ("done", "wanted", "wanted", "read", "done", "wanted")
    for entity, prefix, count in (("contact", "c", tickets // 2), ("ticket", "t", tickets)):
        for one in range(count):
            yield run, entity, f"{prefix}{one}", states[one % 6], at, 1, 0, "none"


def _drift(count: int, at: int) -> Iterator[Record]:
    """Yield what the last run found, and a tenth of it for each run before."""
    for run in range(1, FINISHED_RUNS + 1):
        for one in range(count if run == LAST_RUN else count // 10):
            kind = RARE_KIND if one % RARE_EACH == RARE_EACH - 1 else "stale"
            found_at = _found_at(run, one, count, at)
            yield run, "ticket", f"t{one}", kind, '["status","queue_id"]', float(one), found_at


def _began(run: int, at: int) -> int:
    """Return when a run began: each night one."""
    return at - (FINISHED_RUNS + 1 - run) * DAY


def _found_at(run: int, one: int, count: int, at: int) -> int:
    """Return when a run found the difference with this number of so many."""
    return _began(run, at) + one * LASTED // count
