"""This module counts what is held of people, by tenant and place, in bounded time however much it is.

Tables of the projection, and what is parked or compared, are counted up to COUNT_LIMIT rows along a key: beyond that a
count says "at least". The log has no index by tenant, and its rows carry the bytes. So of a log with more than SAMPLES
positions as many are read, spread evenly by the primary key: a count is then an estimate, off by a hundredth or two for
a tenant with a tenth of the log, and says "about".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args
from uuid import UUID

from sqlalchemy import ColumnElement, Table, case, func, literal, select, true

from whatsms_events.domain.forms import inflated
from whatsms_events.storage.database import CHUNK, Database
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_run,
    contact,
    erasure,
    event_log,
    message,
    message_revision,
    parked_delivery,
    parked_event,
    ticket,
)

COUNT_LIMIT: Final = 1_000_000
"""So many rows are counted in one place: about a second, also where their texts are long."""

SAMPLES: Final = 5000

FORGOTTEN_LIMIT: Final = 1000

UNREAD_LIMIT: Final = 500
UNREAD_PIECE: Final = 50
"""Each of them has a whole body, and is inflated."""

Precision = Literal["exact", "at_least", "about"]
HeldPlace = Literal[
    "log_bytes",
    "log_data",
    "contacts",
    "tickets",
    "messages",
    "revisions",
    "parked_deliveries",
    "parked_events",
    "backfill_items",
    "backfill_drift",
]
"""Where something is held: the bytes and the data of events, the projection's tables, what is parked or compared."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one place holds of a tenant's people. `oldest_at` in microseconds; None where nothing is, or no time known.

    `due` is how many of the rows are older than they may be; None where they may be kept for ever.
    """

    place: HeldPlace
    rows: int
    precision: Precision
    oldest_at: int | None
    due: int | None


@dataclass(frozen=True, slots=True)
class ForgottenPerson:
    """A person who was forgotten, by the contact that was named. Times in microseconds.

    `finished_at` is None while that is not finished; `kafka_until` where there is no Kafka, or a topic keeps for ever.
    """

    contact_id: str
    forgotten_at: int
    finished_at: int | None
    kafka_until: int | None


class _Sampled(NamedTuple):
    """A row of the log, as a sample sees it."""

    tenant: str
    received_at: int
    has_raw: bool
    has_data: bool


@dataclass(frozen=True, slots=True)
class LogSample:
    """Rows of the log; each stands for `weight` of them, and alone where the whole log was read."""

    rows: Sequence[_Sampled]
    weight: float

    def held(self, place: HeldPlace, tenant: str, cutoff: int | None = None) -> Held:
        """Return what the sample says of a tenant's bytes or data."""
        mine = [
            row.received_at
            for row in self.rows
            if row.tenant == tenant and (row.has_raw if place == "log_bytes" else row.has_data)
        ]
        due = None if cutoff is None else round(self.weight * sum(at <= cutoff for at in mine))
        precision: Precision = "exact" if self.weight == 1 else "about"
        return Held(place, round(self.weight * len(mine)), precision, min(mine, default=None), due)


class PrivacyCounts:
    """The counts. All verbs raise StorageUnavailableError where a database is away."""

    def __init__(
        self, log: Database, projection: Database, *, count_limit: int = COUNT_LIMIT, samples: int = SAMPLES
    ) -> None:
        self._log = log
        self._projection = projection
        self._count_limit = count_limit
        self._samples = samples

    async def sample(self) -> LogSample:
        """Read the log, or rows of it that are spread evenly: the same for all tenants."""
        table = event_log.c
        async with self._log.read() as connection:
            end = int(await connection.scalar(select(func.max(table.position))) or 0)
        count = min(end, self._samples)
        wanted = [1 + number * end // count for number in range(count)]
        columns = table.tenant, table.received_at, table.raw.is_not(None), table.data.is_not(None)
        found: list[_Sampled] = []
        for start in range(0, count, CHUNK):
            some = table.position.in_(wanted[start : start + CHUNK])
            async with self._log.read() as connection:
                rows = await connection.execute(select(*columns).where(some))
                found += [_Sampled(tenant, at, bool(raw), bool(data)) for tenant, at, raw, data in rows]
        return LogSample(found, end / count if count else 1)

    async def held(
        self, tenant: str, sample: LogSample, cutoffs: Mapping[HeldPlace, int | None] = MappingProxyType({})
    ) -> list[Held]:
        """Return what each place holds of a tenant. `cutoffs`: what is not later than this, in microseconds, is due."""
        found = [sample.held(place, tenant, cutoffs.get(place)) for place in OF_LOG]
        return found + [await self.one(place, tenant, cutoffs.get(place)) for place in TABLES]

    async def forgotten(self, tenant: str) -> list[ForgottenPerson]:
        """Return the people who were forgotten last, the last one first: FORGOTTEN_LIMIT at most."""
        table = erasure.c
        columns = table.contact_id, table.forgotten_at, table.finished_at, table.kafka_until
        query = select(*columns).where(table.tenant == tenant).order_by(table.number.desc()).limit(FORGOTTEN_LIMIT)
        async with self._log.read() as connection:
            return [ForgottenPerson(*row) for row in await connection.execute(query)]

    async def forgotten_in_all(self, tenant: str) -> tuple[int, int | None]:
        """Return how many contacts were forgotten, and when topics have nothing of the last of them; None for never."""
        table = erasure.c
        query = select(func.count(table.contact_id.distinct()), func.max(table.kafka_until))
        async with self._log.read() as connection:
            count, until = (await connection.execute(query.where(table.tenant == tenant))).one()
        return int(count), until

    async def unread(self, tenant: str) -> list[UUID]:
        """Return parked deliveries in a form that is not read here, so that nobody knows whom they name.

        The last UNREAD_LIMIT are looked at that were compressed or say so.
        """
        table, found = parked_delivery.c, list[UUID]()
        zipped = table.content_encoding.is_not(None) | (func.substr(table.raw, 1, 2) == literal(b"\x1f\x8b"))
        query = select(table.id, table.raw, table.content_encoding).where(table.tenant == tenant, zipped)
        query = query.order_by(table.received_at.desc(), table.id).limit(UNREAD_PIECE)
        for start in range(0, UNREAD_LIMIT, UNREAD_PIECE):
            async with self._log.read() as connection:
                rows = (await connection.execute(query.offset(start))).all()
            found += [row.id for row in rows if row.raw and inflated(row.raw, row.content_encoding) is None]
            if len(rows) < UNREAD_PIECE:
                break
        return found

    async def people(self, tenant: str) -> Held:
        """Return of how many people something is held: contacts that are no group and have a name or a number."""
        known = (contact.c.name.is_not(None) | contact.c.number.is_not(None)) & contact.c.is_group.is_not(True)
        return await self.one("contacts", tenant, kept=known)

    async def one(
        self, place: HeldPlace, tenant: str, cutoff: int | None = None, *, kept: ColumnElement[bool] | None = None
    ) -> Held:
        """Return what one table holds of a tenant; `kept` says of which rows, else all that hold anything."""
        table, time, usual = TABLES[place]
        # The limit is on the rows that are looked at: on those that are kept, it would be no limit where few are.
        some = (
            select(time.label("at"), (usual if kept is None else kept).label("kept"))
            .where(_whose(table, tenant))
            .limit(self._count_limit + 1)
        )
        rows = some.subquery()
        at = case((rows.c.kept, rows.c.at))
        late = func.count(case((at <= (0 if cutoff is None else cutoff), 1)))
        query = select(func.count(), func.count(case((rows.c.kept, 1))), func.min(at), late)
        database = self._log if table.metadata is event_log.metadata else self._projection
        async with database.read() as connection:
            looked, held, oldest, due = (await connection.execute(query)).one()
        precision: Precision = "at_least" if looked > self._count_limit else "exact"
        # One row more than the limit was looked at, only to know that there are more.
        return Held(place, min(held, self._count_limit), precision, oldest, None if cutoff is None else int(due))


def _whose(table: Table, tenant: str) -> ColumnElement[bool]:
    if "tenant" in table.c:
        return table.c.tenant == tenant
    return table.c.run.in_(select(backfill_run.c.run).where(backfill_run.c.tenant == tenant))


OF_LOG: Final[tuple[HeldPlace, ...]] = ("log_bytes", "log_data")
TABLES: Final[Mapping[HeldPlace, tuple[Table, ColumnElement[Any], ColumnElement[bool]]]] = {
    "contacts": (contact, contact.c.created_at, true()),
    "tickets": (ticket, ticket.c.created_at, true()),
    "messages": (message, message.c.created_at, message.c.body.is_not(None) | message.c.media_url.is_not(None)),
    "revisions": (message_revision, message_revision.c.first_at, true()),
    "parked_deliveries": (parked_delivery, parked_delivery.c.received_at, true()),
    "parked_events": (parked_event, parked_event.c.parked_at, true()),
    "backfill_items": (backfill_item, backfill_item.c.due_at, true()),
    "backfill_drift": (backfill_drift, backfill_drift.c.found_at, true()),
}
"""What is counted in each table: the time of a row, and whether it holds anything. A message without a text or a media
URL holds nothing: its text was blanked, or it is only known by an ack."""

PLACES: Final[tuple[HeldPlace, ...]] = get_args(HeldPlace)
