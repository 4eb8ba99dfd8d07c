"""A backfill brings nobody back who was forgotten, although the vendor still shows them, and finds no drift in that."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from servers.reconciling import House, half_an_hour
from whatsms_events.config.settings import Privacy
from whatsms_events.domain.marks import Marker
from whatsms_events.storage import tables
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.repair.reports import Options
from whatsms_events.workers.forgetting import Forgetting, ForgettingWaits

pytestmark = pytest.mark.twin

KEY = "a-long-random-key-of-the-tests"
FULL = Options(details="all", messages="full")


async def rows_with(here: House, texts: list[str]) -> list[Any]:
    """Return table and id of each row of both databases that holds one of the texts."""
    found = []
    for database, metadata in ((here.log, tables.log_metadata), (here.projection, tables.projection_metadata)):
        async with database.read() as connection:
            for table in metadata.sorted_tables:
                for row in (await connection.execute(select(table))).mappings():
                    whole = b"\0".join(one if isinstance(one, bytes) else str(one).encode() for one in row.values())
                    if any(text.encode() in whole for text in texts):
                        found.append((table.name, row.get("id"), row.get("type")))
    return found


async def test_a_reconcile_brings_no_forgotten_person_back(tmp_path: Path) -> None:
    """Lists and details show the person as before: nothing of it is stored, nothing differs, nothing is appended."""
    async with half_an_hour(tmp_path, Privacy(key=SecretStr(KEY))) as here:
        await here.reconcile(FULL)
        await here.tick(3600)
        await here.reconcile(FULL)  # what came just before the first one is settled by now
        held = HeldSuppressions(here.log, KEY.encode())
        await held.look()
        await held.show_key()
        ticket = here.open_ticket()
        person = ticket.contact
        texts = [person.number, *([person.email] if person.email else [])]
        assert await rows_with(here, texts) != []
        await here.tick(60)
        forgetting = Forgetting(
            here.log, here.projection, Marker(KEY.encode()), prefix=None, keeps_until=lambda _: None, now=here.now,
            waits=ForgettingWaits(settle_s=0, behind_s=0),
        )  # fmt: skip
        with pytest.raises(Exception, match="applied up to"):
            await forgetting.run(here.tenant, str(person.id))
        await here.apply()
        await forgetting.run(here.tenant, str(person.id))
        assert await rows_with(here, texts) == []
        await here.tick(3600)
        for _ in range(2):
            report = await here.reconcile(FULL)
            assert report.drift == []
            assert await rows_with(here, texts) == []
