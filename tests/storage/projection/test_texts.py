"""What was written goes when its days are over, the messages stay, and nothing late brings it back."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from storage.log.test_blanking import files_of
from storage.log.test_event_log import fill
from whatsms_events.config.settings import Settings
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.retention import RetentionTerms
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import FencedError
from whatsms_events.service.parts import make_consumer
from whatsms_events.service.stores import Stores
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import message, message_revision, ticket
from whatsms_events.workers.consumer import Consumer
from workers.test_retention import DAY, NOW, Bench

TERMS = RetentionTerms({"texts": 30 * DAY}, {"for-ever": {"texts": None}})


class Told(Bench):
    """A bench whose events are webhooks, applied by a real consumer that goes on throughout."""

    consumer: Consumer

    async def tell(self, event: str, age_days: float, *, tenant: str = "acme", **data: Any) -> None:
        """Append a webhook of so many days ago, and apply it."""
        at = NOW - age_days * DAY
        body = json.dumps({"event": event, "tenantId": tenant, "timestamp": at.isoformat(), "data": data}).encode()
        read = normalize(body, tenant=tenant, received_at=at)
        await fill(self.log, [Append(read, body, hashlib.sha256(body).digest())])
        await self.apply()

    async def apply(self) -> None:
        """Let the consumer apply the log; where rows were changed under its hands, it begins anew."""
        end = max(position for position, _, _ in await self.kept())
        while (await Projection(self.tables).state()).applied_through < end:
            try:
                await self.consumer.run_once()
            except FencedError:
                self.fenced += 1

    fenced = 0

    async def messages(self) -> Mapping[str, str | None]:
        """Return the wording of each message by its id."""
        async with self.tables.read() as connection:
            return {row.id: row.body for row in await connection.execute(select(message.c.id, message.c.body))}


@pytest.fixture
async def told(database_url: str, tmp_path: Path) -> AsyncIterator[Told]:
    """Give messages of several ages, applied, on each kind of database."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    beside = database_url if log.path is None else f"sqlite:///{tmp_path / 'projection.db'}"
    tables = await open_projection(DatabaseTarget(beside), migrate=True)
    told = Told(log, tables)
    told.consumer = make_consumer(Settings(), Stores(log, tables), lock=RoleLock(log, "consumer"))
    old = {"id": "m-1", "body": "<old>", "mediaUrl": "https://cdn.example/<old>", "ticketId": "t-1"}
    await told.tell("message.received", 40, message=old)
    await told.tell("message.received", 20, message={"id": "m-2", "body": "<young>", "ticketId": "t-1"})
    await told.tell("message.received", 41, message={"id": "m-3", "body": "<old> wording"})
    await told.tell("message.received", 3, message={"id": "m-3", "body": "<young> wording"})
    await told.tell("message.received", 99, tenant="for-ever", message={"id": "m-4", "body": "<kept>"})
    await told.tell("ticket.updated", 35, ticket={"id": "t-1", "status": "open", "lastMessage": "<old> preview"})
    yield told
    await told.consumer.close()
    await tables.close()
    await log.close()


async def test_old_texts_go_and_the_messages_stay(told: Told) -> None:
    """Wording, media and previews that were told before the days are null; all else of the rows, younger texts, and
    those of a tenant without an end, stay; on SQLite no byte of the old ones is left in the file.
    """
    async with told.tables.read() as connection:
        before = [dict(row) for row in (await connection.execute(select(message).order_by(message.c.id))).mappings()]
    await told.done(told.retention(TERMS))
    assert await told.messages() == {"m-1": None, "m-2": "<young>", "m-3": "<young> wording", "m-4": "<kept>"}
    async with told.tables.read() as connection:
        after = [dict(row) for row in (await connection.execute(select(message).order_by(message.c.id))).mappings()]
        previews = (await connection.execute(select(ticket.c.status, ticket.c.last_message))).all()
        wordings = (await connection.execute(select(message_revision.c.content))).scalars().all()
    gone = {"body": None, "media_url": None}
    assert after == [row | gone if row["id"] == "m-1" else row for row in before]
    assert previews == [("open", None)]
    assert sorted(re.findall("<[a-z]+>", " ".join(wordings))) == ["<kept>", "<young>", "<young>"]
    if told.tables.path is not None:
        files = files_of(told.tables.path)
        assert not [name for name, content in files.items() if b"<old>" in content]
        assert any(b"<young>" in content for content in files.values()), "it would be seen"


async def test_a_consumer_that_held_the_rows_brings_nothing_back(told: Told) -> None:
    """The consumer has the rows in memory when they are blanked. It is fenced and begins anew, and an ack, an old text
    that comes late, and a newer one each do what they should.
    """
    await told.done(told.retention(TERMS))
    await told.tell("message.ack", 0, message={"id": "m-1", "ack": 3})
    assert told.fenced >= 1
    assert (await told.messages())["m-1"] is None
    await told.tell("message.received", 39, message={"id": "m-1", "body": "<old>", "ticketId": "t-1", "extra": 1})
    late = (await told.messages())["m-1"]
    await told.tell("message.received", 0, message={"id": "m-1", "body": "<young> again", "ticketId": "t-1"})
    assert (await told.messages())["m-1"] == "<young> again"
    assert late == "<old>", "told later than what was blanked: the next pass takes it"


async def test_a_pass_is_made_of_pieces(told: Told) -> None:
    """Whatever the size of a piece, a pass looks at everything once, and the next one is due hours later."""
    working = told.retention(TERMS, rows=1)
    await told.done(working)
    assert (await told.messages())["m-1"] is None
    await told.tell("message.received", 31, message={"id": "m-9", "body": "<old>"})
    told.time += 3600
    await told.done(working)
    assert (await told.messages())["m-9"] == "<old>"
    told.time += 6 * 3600
    await told.done(working)
    assert (await told.messages())["m-9"] is None
