"""A person is forgotten where somebody else was forgotten before, and where the tables do not know what is theirs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from whatsms_events.errors import TransientError
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.suppression import HeldSuppressions
from workers.test_forgetting import ANA, KEY, RUI, TENANT, House, holding, needles, opened, wrote

CUT = b"{" + json.dumps({"contactId": ANA.contact, "name": ANA.mark}).encode()


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """Give a house on each kind of database, with two people in it."""
    async with opened(database_url, tmp_path) as made:
        await made.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1"))
        made.clock += timedelta(seconds=1)
        yield made


async def places(house: House) -> list[str]:
    """Return the tables that hold something of Ana, one for each row."""
    return [table for table, _ in holding(await house.everything(), needles(ANA))]


async def test_who_came_back_keeps_what_is_new_when_somebody_else_is_forgotten(house: House) -> None:
    """What a forgotten person did since stays to the byte, be it applied or parked, until they are forgotten again."""
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=100)
    unknown = {"event": "x.y", "tenantId": TENANT, "timestamp": "2026-05-01T12:01:30Z", "contactId": ANA.contact}
    parked = json.dumps({**unknown, "name": ANA.mark}).encode()
    await house.deliver(wrote(ANA, "m-new", "novo", seconds=90), parked)
    back = holding(await house.everything(), needles(ANA))
    assert {"event_log", "parked_delivery", "contact", "message"} <= {table for table, _ in back}
    house.clock += timedelta(seconds=1)
    await house.forget(RUI.contact)
    assert holding(await house.everything(), needles(ANA)) == back
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    assert await places(house) == []


async def test_what_is_parked_while_marks_are_not_known_yet_goes_too(house: House) -> None:
    """A receiver learns of marks a second late: what it parked by then of somebody from before loses its bytes."""
    held = HeldSuppressions(house.log, KEY, monotonic=lambda: 0.0)  # so it is never time to look again
    await held.look()
    with contextlib.suppress(TransientError):
        await house.forgetting().run(TENANT, ANA.contact)
    house.clock += timedelta(seconds=0.5)
    stop = asyncio.Event()
    committer = Committer(
        house.log, batch_limit=5, queue_limit=5, queue_limit_bytes=1 << 20, on_commit=lambda _: None,
        suppressions=held,
    )  # fmt: skip
    running = asyncio.create_task(committer.run(stop))
    assert (await committer.deliver(house.signed(CUT), deadline_s=60)).kind == "parked"
    stop.set()
    await running
    await house.forget(ANA.contact)
    assert await places(house) == []
