"""The observer's gauges of what is held of people."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import insert

from servers.metric import shown
from servers.people import NOON, OTHER_TENANT, PARKED, TENANT, story
from whatsms_events.storage.privacy import PLACES
from whatsms_events.storage.tables import erasure, parked_delivery
from whatsms_events.workers.observer import Observer


async def test_what_is_held_is_shown_of_every_tenant(tmp_path: Path) -> None:
    """The first look counts every place of every tenant, later ones go round; a tenant that has gone is not shown."""
    async with story(f"sqlite:///{tmp_path / 'log.db'}") as told:
        slugs = {TENANT: "held_one", OTHER_TENANT: "held_two"}
        observer = Observer(told.log, told.projection, prefix=None, slugs=slugs, keyed=(), now=lambda: NOON)
        await observer.look_at_held()
        assert (shown("held_people", tenant="held_one"), shown("held_people", tenant="held_two")) == (2, 1)
        assert shown("held_rows", tenant="held_one", place="messages") == 5
        assert shown("held_rows", tenant="held_one", place="log_data") == 11
        assert shown("held_rows", tenant="held_one", place="parked_deliveries") == len(PARKED)
        assert all(shown("held_rows", tenant="held_two", place=place) is not None for place in PLACES)
        async with told.log.write() as connection:
            await connection.exec_driver_sql("DELETE FROM parked_delivery")
        for _ in range(len(PLACES) + 1):
            await observer.look_at_held()
        assert shown("held_rows", tenant="held_one", place="parked_deliveries") == 0
        assert shown("forgotten_people", tenant="held_one") == 0
        assert shown("forgotten_kafka_until_timestamp_seconds", tenant="held_one") == 0
        row = {
            "tenant": TENANT,
            "forgotten_at": 1,
            "log_end": 1,
            "through": 1,
            "until": 1,
            "blanked": "{}",
            "ids": "{}",
        }
        people = [row | {"contact_id": one, "kafka_until": until} for one, until in (("1", 5), ("1", 7), ("2", None))]
        async with told.log.write() as connection:
            await connection.execute(insert(erasure), people)
            zipped = {
                "id": UUID(int=1), "tenant": TENANT, "reason": "encoding", "detail": "", "received_at": 1,
                "raw": b"of no known form", "content_encoding": "zstd", "sha256": bytes(32), "count": 1,
            }  # fmt: skip
            await connection.execute(insert(parked_delivery), zipped)
        await observer.look_at_held()
        assert shown("forgotten_unread_parked", tenant="held_one") == 1
        assert shown("forgotten_unread_parked", tenant="held_two") == 0
        assert shown("forgotten_people", tenant="held_one") == 2
        assert shown("forgotten_kafka_until_timestamp_seconds", tenant="held_one") == 7e-6
        observer.change({TENANT: "held_one"}, (), {})
        await observer.look_at_secrets()
        assert shown("held_people", tenant="held_two") is None
        assert shown("held_people", tenant="held_one") == 2
