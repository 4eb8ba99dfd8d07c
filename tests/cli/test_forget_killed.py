"""`forget` is killed with SIGKILL wherever it may be; the next one goes on and ends, and nobody else has changed."""

import asyncio
import fcntl
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from servers import warm
from servers.compare import until
from servers.process import Server
from servers.service import SLUG, TENANT, Service
from whatsms_events.clock import now
from whatsms_events.errors import TransientError
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.erasure import Erasure, Erasures
from whatsms_events.storage.role_lock import lock_file
from workers.test_forgetting import ANA, KEY, RUI, House, body, holding, in_group, needles, opened, unlike, wrote

pytestmark = pytest.mark.process


class Forget(Server):
    """One process of the command `forget --go`."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.folder)
        self.words = ["forget", "--tenant", SLUG, "--contact", ANA.number, "--go", "--json"]
        self.words += ["--config", str(service.config)]

    def launch(self, output: Any) -> warm.Program:
        """Fork it from the warm parent."""
        return warm.start(self.words, self.folder, stdout=output, stderr=output)

    async def killed(self, reached: Callable[[], Any], what: str) -> None:
        """Start it, and kill it when it has come so far."""
        self.spawn()
        await until(lambda: self._said_to_be(reached), 60, what)
        assert self.status is None
        await self.kill()

    async def _said_to_be(self, reached: Callable[[], Any]) -> bool:
        assert self.status is None, (self.folder / "output.log").read_text()
        return bool(await reached())

    async def ended(self) -> dict[str, Any]:
        """Run it to its end, and return what it says."""
        done = await asyncio.to_thread(warm.run, self.words, self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said


@asynccontextmanager
async def two_people(database_url: str, folder: Path) -> AsyncIterator[tuple[House, Forget, dict[str, Any]]]:
    """Give a log and tables that hold two people, the command, and all rows as they are before it."""
    settings: dict[str, dict[str, object]] = {"privacy": {"key": KEY.decode()}}
    if not database_url.startswith("sqlite"):
        settings["database"] = {"url": database_url}
    service = Service(folder, settings=settings)
    await asyncio.to_thread(warm.parent)
    async with opened(database_url, folder) as house:
        house.clock = now() - timedelta(minutes=1)
        for one in (ANA, RUI):
            texts = [wrote(one, f"{one.contact}-{number}", f"olá {number}") for number in range(5)]
            parked = body("x.unknown", contact={"id": one.contact, "name": one.mark})
            await house.deliver(*texts, in_group(one, f"{one.contact}-g", f"{one.mark} cá", f"{one.mark} cá"), parked)
        yield house, Forget(service), await house.everything()


async def the_erasure(house: House) -> Erasure | None:
    """Return the only erasure, if it was begun."""
    found = await Erasures(house.log).all()
    return found[0] if found else None


async def appended(house: House) -> None:
    """Go on to the event, or begin: the command waits for seconds before that, and need not do it once more."""
    house.clock = now()
    with pytest.raises(TransientError):
        await house.forgetting().run(TENANT, ANA.number)


async def is_locked(path: Path) -> bool:
    """Tell whether another process has the lock of a role."""
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def assert_forgotten(house: House, said: dict[str, Any], before: dict[str, Any], began_at: datetime) -> None:
    """Check that it was one erasure from the first process on, nothing of her is left, and he is as he was."""
    one = await the_erasure(house)
    assert one is not None
    assert one.forgotten_at == began_at
    assert one.finished_at is not None
    assert len(await Erasures(house.log).all()) == 1
    assert said["contact_ids"] == [ANA.contact]
    after = await house.everything()
    assert [row["type"] for row in after["event_log"]].count("contact.forgotten") == 1
    assert holding(after, needles(ANA)) == []
    assert unlike(before, after, RUI) == []


async def test_on_files_it_goes_on_wherever_it_was_killed(tmp_path: Path) -> None:
    """While it settles, waits for the tables, between log and tables, and before the files are written anew."""
    async with two_people(f"sqlite:///{tmp_path / 'log.db'}", tmp_path) as (house, forget, before):

        async def erasure(reached: Callable[[Erasure], bool]) -> bool:
            one = await the_erasure(house)
            return one is not None and reached(one)

        await forget.killed(lambda: erasure(lambda _one: True), "the marks are written")
        begun = await the_erasure(house)
        assert begun is not None
        await appended(house)
        await forget.killed(lambda: is_locked(lock_file(house.log, BLANKING)), "it waits for the tables")
        await house.apply()
        with closing(sqlite3.connect(tmp_path / "projection.db")) as writer:
            writer.execute("BEGIN IMMEDIATE")
            await forget.killed(lambda: erasure(lambda one: one.through == one.until), "the log is blanked")
        with closing(sqlite3.connect(tmp_path / "log.db")) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM event_log").fetchone()
            await forget.killed(lambda: erasure(lambda one: one.finished_at is not None), "all rows are blanked")
        assert [one for one in needles(ANA) if one in house.files()] != []
        await assert_forgotten(house, await forget.ended(), before, begun.forgotten_at)
        assert [one for one in needles(ANA) if one in house.files()] == []


@pytest.mark.postgres
async def test_on_postgresql_it_goes_on_wherever_it_was_killed(tmp_path: Path, postgres_url: str) -> None:
    """In the middle of a piece of the log, and in the middle of the tables."""
    async with two_people(postgres_url, tmp_path) as (house, forget, before):
        await appended(house)
        await house.apply()
        begun = await the_erasure(house)
        assert begun is not None
        other, asking = [await asyncpg.connect(postgres_url) for _ in range(2)]  # a transaction sees one moment alone
        for table, column, value in (
            ("event_log", "message_id", f"{ANA.contact}-3"),
            ("message", "id", f"{ANA.contact}-3"),
            ("contact", "id", ANA.contact),
        ):
            async with other.transaction():
                await other.execute(f"SELECT FROM {table} WHERE {column} = $1 FOR UPDATE", value)
                await forget.killed(lambda: waits(asking), f"it waits for a row of {table}")
        await until(lambda: nobody_else(asking), 60, "the server has noticed")
        await assert_forgotten(house, await forget.ended(), before, begun.forgotten_at)
        await other.close()
        await asking.close()


async def waits(connection: Any) -> bool:
    """Tell whether somebody waits for a row of this database."""
    found = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await connection.fetchval(found))


async def nobody_else(connection: Any) -> bool:
    """Tell whether nobody has a role in this database."""
    found = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
    return not await connection.fetchval(f"{found} WHERE locktype = 'advisory' AND datname = current_database()")
