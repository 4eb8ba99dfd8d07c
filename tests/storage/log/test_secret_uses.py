"""Which secret verified what, by its name, on real databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import delete, insert, select
from structlog.testing import capture_logs

from servers.metric import sample
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.rotation import SecretUse
from whatsms_events.domain.signature import given, sign
from whatsms_events.domain.verdicts import Append, Delivery
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.parked import Parked
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.tables import event_log, secret_use
from whatsms_events.workers.observer import Observer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRETS = {"current": b"new-secret", "previous": b"old-secret"}
PARKED = b"nobody can read this"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def body(number: int) -> bytes:
    """Return the bytes of an event."""
    return b'{"event":"ticket.created","tenantId":"acme","data":{"ticket":{"id":"%d"}}}' % number


def delivery(raw: bytes, name: str, at: datetime = NOON) -> Delivery:
    """Return a delivery that is signed with the secret of this name."""
    return Delivery("shop", "acme", SECRETS, given([sign(raw, SECRETS[name])]), raw, None, at)


@asynccontextmanager
async def committing(database: Database) -> AsyncIterator[Committer]:
    """Run a committer, and let it drain at the end."""
    stop = asyncio.Event()
    committer = Committer(
        database, batch_limit=500, queue_limit=99, queue_limit_bytes=1 << 20, on_commit=lambda _: None
    )
    task = asyncio.create_task(committer.run(stop))
    try:
        yield committer
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def signed_by(database: Database) -> list[str | None]:
    """Return what the log says of each event, in its order."""
    async with database.read() as connection:
        return list((await connection.execute(select(event_log.c.signed_by).order_by(event_log.c.position))).scalars())


async def test_the_log_names_the_secret_that_verified_each_delivery(database: Database) -> None:
    """An event and a parked delivery keep the name, also when the delivery is retried later; what came over no door has
    none.
    """
    async with committing(database) as committer:
        for number, name in enumerate(("previous", "current")):
            await committer.deliver(delivery(body(number), name), deadline_s=60)
        await committer.deliver(delivery(PARKED, "previous"), deadline_s=60)
        observed = normalize(body(7), tenant="acme", received_at=NOON)
        await committer.submit(Append(observed, body(7), b"-"), deadline_s=60)
        assert await signed_by(database) == ["previous", "current", None]
        parked = Parked(database)
        (one,) = await parked.list(None, 9)
        assert one.signed_by == "previous"
        understood = normalize(body(8), tenant="acme", received_at=NOON)
        await parked.take(one.id, Append(understood, PARKED, one.sha256, one.signed_by))
    assert await signed_by(database) == ["previous", "current", None, "previous"]


async def test_uses_of_secrets_outlive_restarts_and_add_up_over_receivers(database: Database) -> None:
    """First and last fit and the count are in the table once a process has stopped, for all receivers together;
    deliveries that were parked or came again count, refused ones do not.
    """
    later, earlier = NOON + timedelta(hours=1), NOON - timedelta(hours=1)
    async with committing(database) as one, committing(database) as other:
        await one.deliver(delivery(body(1), "current"), deadline_s=60)
        await one.deliver(delivery(body(1), "current", later), deadline_s=60)
        await other.deliver(delivery(body(1), "current", earlier), deadline_s=60)
        await other.deliver(delivery(PARKED, "previous"), deadline_s=60)
        await asyncio.gather(
            one.deliver(msgspec.structs.replace(delivery(body(2), "current"), digest=b"?" * 32), deadline_s=60),
            return_exceptions=True,
        )
    expected = [SecretUse("acme", "current", earlier, later, 3), SecretUse("acme", "previous", NOON, NOON, 1)]
    assert await SecretUses(database).all() == expected
    async with committing(database) as again:
        await again.deliver(delivery(body(3), "previous", later), deadline_s=60)
    assert (await SecretUses(database).all())[1] == SecretUse("acme", "previous", NOON, later, 2)


async def test_uses_that_cannot_be_saved_are_kept_and_saved_later(database: Database) -> None:
    """What cannot be saved now is counted on; one line says what is lost where the process stops before that."""
    uses = SecretUses(database)
    uses.add("acme", "current", 2, NOON)
    async with database.write() as connection:
        await connection.run_sync(secret_use.drop)
    with capture_logs() as lines:
        ended = asyncio.Event()
        ended.set()
        await uses.run(ended)
    assert [(line["event"], line["waiting"]) for line in lines] == [("secrets.uncounted", 1)]
    async with database.write() as connection:
        await connection.run_sync(secret_use.create)
        await connection.execute(delete(secret_use))
        row = {"tenant": "acme", "name": "other", "first_at": 1, "last_at": 1, "count": 1}
        await connection.execute(insert(secret_use), row)
    uses.add("acme", "current", 1, NOON + timedelta(seconds=1))
    await uses.save()
    assert (await uses.all())[0] == SecretUse("acme", "current", NOON, NOON + timedelta(seconds=1), 3)


async def test_gauges_show_when_each_configured_secret_first_and_last_fitted(database: Database) -> None:
    """They are the table's times, so every process shows them, and zero for a secret that never fitted."""
    uses = SecretUses(database)
    uses.add("acme", "previous", 1, NOON - timedelta(hours=3))
    uses.add("acme", "previous", 1, NOON)
    await uses.save()
    names = {"acme": ["current", "previous"]}
    observer = Observer(
        database, database, prefix=None, slugs={"acme": "shop"}, keyed=[], secrets=names, now=lambda: NOON
    )
    await observer.look_at_secrets()
    found = {
        which: [
            sample(f"whatsms_events_secret_{which}_match_timestamp_seconds", {"tenant": "shop", "secret": name})
            for name in names["acme"]
        ]
        for which in ("first", "last")
    }
    assert found == {"first": [0, NOON.timestamp() - 3 * 3600], "last": [0, NOON.timestamp()]}
