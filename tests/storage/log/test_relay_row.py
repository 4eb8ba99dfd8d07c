"""The relay's row on both databases: what comes back is what was saved, and only the latest opening saves."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from whatsms_events.domain.resume import Published, Route
from whatsms_events.errors import FencedError, IntegrityError
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.relay_row import RelayRows

LOG = UUID(int=7)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a migrated log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


async def test_saved_state_comes_back_whole(database: Database) -> None:
    """Bound, event, counts, older counts and positions survive, per prefix."""
    rows = RelayRows(database)
    assert await rows.load("p") is None
    claimed = await rows.claim("p", LOG, NOW)
    assert claimed == Published(log_id=LOG, generation=1)
    published = replace(
        claimed,
        published_through=2**62,
        event_id=UUID(int=9),
        counts={"p.contacts": 12, "p.conversations": 24},
        routes=(Route(17, {"p.contacts": 3, "p.conversations": 24}), Route(90, {"p.contacts": 6})),
        visible={("p.contacts", 11): 2**62, ("p.conversations", 0): 5},
    )
    await rows.save("p", published, NOW)
    assert await rows.load("p") == published
    assert await rows.load("q") is None
    assert await rows.claim("p", LOG, NOW) == replace(published, generation=2)


async def test_only_the_latest_opening_saves(database: Database) -> None:
    """A relay that was overtaken is fenced at its save, and the row stays as it was."""
    rows = RelayRows(database)
    older = await rows.claim("p", LOG, NOW)
    newer = await rows.claim("p", LOG, NOW)
    with pytest.raises(FencedError, match="another relay opened topic prefix p"):
        await rows.save("p", replace(older, published_through=5), NOW)
    with pytest.raises(FencedError):
        await rows.save("unknown", older, NOW)
    assert await rows.load("p") == newer
    await rows.save("p", replace(newer, published_through=6), NOW)


async def test_generations_are_given_out_once(database: Database) -> None:
    """Openings at the same moment, the very first ones too, get different generations or are fenced."""
    rows = RelayRows(database)
    claimed = await asyncio.gather(*(rows.claim("p", LOG, NOW) for _ in range(6)), return_exceptions=True)
    generations = [one.generation for one in claimed if isinstance(one, Published)]
    assert sorted(generations) == list(range(1, len(generations) + 1))
    assert all(isinstance(one, Published | FencedError) for one in claimed)


async def test_another_log_is_refused(database: Database) -> None:
    """A prefix belongs to the log that claimed it first, and the refused one changes nothing."""
    rows = RelayRows(database)
    first = await rows.claim("p", LOG, NOW)
    with pytest.raises(IntegrityError, match="topic prefix p belongs to log"):
        await rows.claim("p", UUID(int=8), NOW)
    assert await rows.load("p") == first
