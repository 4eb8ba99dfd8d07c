"""Tables of an older copy are fed from Kafka, which still has the records of somebody who was forgotten since."""

import contextlib
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import select

from servers.compare import ROWS, until
from servers.witness import read_committed
from whatsms_events.config.settings import Privacy
from whatsms_events.domain.marks import Marker
from whatsms_events.domain.records import TOPICS
from whatsms_events.errors import TransientError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.forgetting import Forgetting, ForgettingWaits
from workers.test_consumer import TENANT, Bench, bench, with_kafka

__all__ = ["bench", "with_kafka"]  # fixtures

KEY = b"privacy-key-of-the-tests"


async def named(projection: Database) -> Any:
    """Return somebody whom the tables show: one with a number who is no group."""
    table = tables.contact.c
    query = select(table.id, table.name, table.number).where(table.number.is_not(None), table.is_group.is_not(True))
    async with projection.read() as connection:
        return (await connection.execute(query.order_by(table.id).limit(1))).one()


async def forget(bench: Bench, who: str) -> None:
    """Forget somebody, as an operator does while relay and consumer work."""
    keeps = datetime.now(UTC) + timedelta(days=31)
    forgetting = Forgetting(
        bench.log, bench.projection, Marker(KEY), prefix=bench.prefix, keeps_until=lambda _: keeps,
        now=lambda: datetime.now(UTC), waits=ForgettingWaits(settle_s=0, behind_s=0),
    )  # fmt: skip
    with contextlib.suppress(TransientError):
        await forgetting.run(TENANT, who)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    await forgetting.run(TENANT, who)


def holding(rows: Mapping[str, list[Any]], *values: str) -> list[Any]:
    """Return the rows that hold one of the values."""
    return [row for some in rows.values() for row in some if any(one in str(row) for one in values)]


async def shown(projection: Database) -> dict[str, list[Any]]:
    """Return what the tables show: all but what registers remember."""
    found: dict[str, list[Any]] = {}
    async with projection.read() as connection:
        for table in ROWS:
            columns = [one for one in table.c if one.name not in {"versions", "parked_at"}]
            found[table.name] = list(await connection.execute(select(*columns).order_by(*table.primary_key)))
    return found


async def applied(consumer: Consumer, projection: Database, end: int) -> None:
    """Run a consumer until the tables show the whole log."""

    async def there() -> bool:
        await consumer.run_once()
        return (await Projection(projection).state()).applied_through >= end

    await until(there, 120, f"everything applied up to {end}")


async def test_older_records_of_kafka_bring_nobody_back(with_kafka: Bench) -> None:
    """A copy of the tables from before somebody was forgotten goes on, across restarts, and becomes the tables that
    the log makes, although Kafka still has that person's records behind it.
    """
    bench = with_kafka
    bench.privacy = Privacy(key=SecretStr(KEY.decode()))
    key = HeldSuppressions(bench.log, KEY)
    await key.look()
    await key.show_key()
    await bench.begin_with_kafka()
    await bench.append(40)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    assert await scrub(bench.projection)
    shutil.copy(bench.folder / "projection.db", bench.folder / "copy.db")
    await bench.append(60)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    person = await named(bench.projection)
    await forget(bench, person.id)
    end = await bench.event_log.end()
    assert bench.kafka is not None
    records = read_committed(bench.kafka.bootstrap_servers, [f"{bench.prefix}.{one}" for one in TOPICS])
    assert [one for one in records if person.number.encode() in (one.value() or b"")]
    old = await open_projection(DatabaseTarget(f"sqlite:///{bench.folder / 'copy.db'}"), migrate=True)
    looking = bench.from_kafka(handle=old)
    await looking.look()
    consumer = bench.from_kafka(handle=old, batch_limit=10)
    for _ in range(2):
        await consumer.run_once()
    await consumer.close()
    consumer = bench.from_kafka(handle=old)
    await applied(consumer, old, end)
    end = await bench.append(10)
    await bench.publish()
    await applied(consumer, old, end)
    assert (await Projection(old).state()).offsets  # it reads the topics again
    await consumer.close()
    await bench.apply_all(bench.from_kafka())
    restored = await shown(old)
    await old.close()
    assert holding(restored, person.number) == []
    assert restored == await shown(bench.projection)
