"""A short story of two people, Ana and Rui, who are in every place of log, projection and backfill, and of a group.

What is Ana's, or names her, is known by name: so a test can say what must be found, and what must stay as it is.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import insert

from whatsms_events.domain.drift import Finding
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import parked_delivery, parked_event
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.sources import LogSource

NOON: Final = datetime(2026, 5, 1, 12, tzinfo=UTC)
TENANT: Final = "t1"
OTHER_TENANT: Final = "t2"
ANA, RUI, GROUP = "731", "900", "740"
ANAS_NUMBER: Final = "351910000731"
_ANA: Final = {"id": ANA, "name": "Ana Canario", "number": ANAS_NUMBER, "email": "ana@canary.example"}
_RUI: Final = {"id": RUI, "name": "Rui Other", "number": "351910000900"}
_GROUP: Final = {"id": GROUP, "name": "Obra Norte", "number": "120363041234567890", "isGroup": True}

FOR_EVER: Final[Mapping[str, Mapping[str, object]]] = {
    "retention": {"parked_days": 0, "items_days": 0, "drift_days": 0}
}
"""Settings of a service that the story is told to: it is old, and what has an end would be removed at once."""

DELIVERIES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "ana": (TENANT, "contact.created", {"contact": _ANA}),
    "rui": (TENANT, "contact.created", {"contact": _RUI}),
    "anas ticket": (TENANT, "ticket.created", {"ticket": {"id": "812", "status": "open", "contact": _ANA}}),
    "ana writes": (
        TENANT,
        "message.received",
        {
            "message": {"id": "m1", "body": "anas secret", "fromMe": False, "mediaUrl": "https://m.example/ana.pdf"},
            "ticket": {"id": "812"},
            "contact": _ANA,
        },
    ),
    "we write to ana": (
        TENANT,
        "message.sent",
        {"message": {"id": "m2", "body": "dear ana", "fromMe": True, "ticketId": "812"}},
    ),
    "ana reads": (TENANT, "message.ack", {"message": {"id": "m2", "ack": 4}}),
    "ana in the group": (
        TENANT,
        "message.received",
        {
            "message": {"id": "g1", "body": "anas words", "fromMe": False, "contactId": ANA, "ticketId": "820"},
            "contact": _GROUP,
        },
    ),
    "rui quotes ana": (
        TENANT,
        "message.received",
        {
            "message": {
                "id": "g2", "body": "ruis answer", "fromMe": False, "contactId": RUI, "ticketId": "820",
                "quotedMsg": {"id": "g1", "body": "anas words", "contactId": int(ANA)},
            },
            "contact": _GROUP,
        },
    ),
    "ruis ticket": (TENANT, "ticket.updated", {"ticket": {"id": "830", "status": "open", "contact": _RUI}}),
    "rui tells her number": (
        TENANT,
        "message.received",
        {
            "message": {"id": "r1", "body": f"call {ANAS_NUMBER}", "fromMe": False},
            "ticket": {"id": "830"},
            "contact": _RUI,
        },
    ),
    "the other tenant": (OTHER_TENANT, "contact.created", {"contact": _ANA}),
    "a campaign": (TENANT, "campaign.finished", {"campaign": {"id": ANA, "name": "Promo", "status": "finished"}}),
}  # fmt: skip
"""Tenant, event and data of each delivery, by what it tells."""

ANAS: Final = ("ana", "anas ticket", "ana writes", "we write to ana", "ana reads", "ana in the group")
NAMING_ANA: Final = ("rui quotes ana",)

PARKED: Final[dict[str, tuple[bytes, str | None]]] = {
    "cut": (b'{"event":"x","data":{"contact":{"id":731,"name":"Ana Can', None),
    "unknown": (json.dumps({"event": "contact.merged", "data": {"contact": _ANA}}).encode(), None),
    "of her message": (b'{"event":"message.reaction","data":{"message":{"id":"g1"}}}', None),
    "zipped": (gzip.compress(json.dumps({"event": "x", "data": {"contact": _ANA}}).encode()), "gzip"),
    "ruis": (json.dumps({"event": "contact.merged", "data": {"contact": _RUI}}).encode(), None),
}
"""Bytes and content encoding of parked deliveries, by what they are. All but the last are Ana's."""


class Story:
    """A log and a projection to which the story was told. `ids` and `positions` are by the name of the delivery."""

    def __init__(self, log: Database, projection: Database) -> None:
        self.log, self.projection = log, projection
        self.ids: dict[str, UUID] = {}
        self.positions: dict[str, int] = {}

    async def tell(self) -> None:
        """Append every delivery, in order, and apply them."""
        stop, items = asyncio.Event(), dict[str, Append]()
        for minute, (name, (tenant, event, data)) in enumerate(DELIVERIES.items()):
            at = NOON + timedelta(minutes=minute)
            body = {"event": event, "tenantId": tenant, "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}", "data": data}
            raw = json.dumps(body).encode()
            items[name] = Append(normalize(raw, tenant=tenant, received_at=at), raw, hashlib.sha256(raw).digest())
        committer = Committer(
            self.log, batch_limit=99, queue_limit=99, queue_limit_bytes=1 << 20, on_commit=lambda _end: None
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(committer.run(stop))
            await asyncio.gather(*(committer.submit(item, deadline_s=60) for item in items.values()))
            stop.set()
        self.ids = {name: item.event.id for name, item in items.items()}
        by_id = {entry.event.id: entry.position for entry in await EventLog(self.log).read(0, 100)}
        self.positions = {name: by_id[one] for name, one in self.ids.items()}
        await self.apply()

    async def apply(self) -> None:
        """Apply everything to the projection."""
        source, lock = LogSource(EventLog(self.log)), RoleLock(self.log, "consumer")
        consumer = Consumer(Projection(self.projection), source, lock, batch_limit=100)
        while await consumer.run_once():
            pass
        await consumer.close()

    async def park(self) -> None:
        """Park deliveries, and an event of Ana's and one of Rui's."""
        rows = [
            {
                "id": UUID(int=number), "tenant": TENANT, "reason": "unknown_event", "detail": "",
                "received_at": number, "raw": raw, "content_encoding": encoding,
                "sha256": hashlib.sha256(raw).digest(), "count": 1,
            }
            for number, (raw, encoding) in enumerate(PARKED.values())
        ]  # fmt: skip
        async with self.log.write() as connection:
            await connection.execute(insert(parked_delivery).values(rows))
        events = [
            {
                "source": "log", "at": number, "position": number, "tenant": TENANT, "type": "contact.updated",
                "reason": "data", "detail": "", "parked_at": number, "headers": "[]",
                "raw": json.dumps({"contact": one}).encode(),
            }
            for number, one in enumerate((_ANA, _RUI))
        ]  # fmt: skip
        async with self.projection.write() as connection:
            await connection.execute(insert(parked_event).values(events))

    async def compare(self) -> None:
        """Leave a run of a backfill unfinished that still compares Ana and Rui, and has found something of both."""
        checkpoints = Checkpoints(self.log)
        run = await checkpoints.begin(TENANT, "reconcile", "test", Options(), NOON)
        shown = [_shown("contact", _ANA), _shown("contact", _RUI), _shown("ticket", {"id": "999", "contact": _ANA})]
        findings = [Finding("contact", one, "stale", ("name",), 1.0) for one in (ANA, RUI)]
        looks = [Doubt("contact", ANA, 1), Doubt("message", "g1", 7), Doubt("contact", RUI, 2)]
        await checkpoints.save(run, b"{}", now=NOON, items=shown, drift=findings, looks=looks)


def _shown(entity: Any, thing: dict[str, Any]) -> Item:
    payload = msgspec.msgpack.encode({"payload": json.dumps({entity: thing}).encode()})
    return Item(entity, thing["id"], "read", NOON, NOON, 1, payload=payload)


@asynccontextmanager
async def story(database_url: str) -> AsyncIterator[Story]:
    """Open an empty log and a projection, and tell the story."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    projection = await open_projection(DatabaseTarget(database_url.replace("log.db", "projection.db")), migrate=True)
    try:
        made = Story(log, projection)
        await made.tell()
        await made.park()
        await made.compare()
        yield made
    finally:
        await projection.close()
        await log.close()
