"""`privacy report`, and the same by the read API; `privacy keys`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import insert

from servers import warm
from servers.people import ANAS_NUMBER, FOR_EVER, TENANT, story
from servers.service import SLUG, Service
from test_journey import get
from whatsms_events.domain.marks import Marker
from whatsms_events.storage.database import DatabaseTarget, open_log
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import erasure

pytestmark = pytest.mark.process

KEY = "a-long-random-key-of-the-tests"


@asynccontextmanager
async def started(service: Service) -> AsyncIterator[None]:
    """Run the service, and stop it however the test ends."""
    await service.start()
    try:
        yield
    finally:
        await service.stop()


async def test_the_report_says_what_is_held_and_names_nobody(tmp_path: Path) -> None:
    """The table, its JSON and the read API tell the same of every place, and no name or number of anybody. The table
    names by their ids who were forgotten last, and all of whom something is left.
    """
    service = Service(tmp_path / "service", settings={f"tenants.{SLUG}": {"tenant_id": TENANT}, **FOR_EVER})
    async with story(f"sqlite:///{service.folder / 'log.db'}"):
        pass
    log = await open_log(DatabaseTarget(f"sqlite:///{service.folder / 'log.db'}"), migrate=False)
    done = {
        "tenant": TENANT,
        "ids": "[[],[]]",
        "log_end": 1,
        "through": 1,
        "until": 1,
        "blanked": "{}",
        "finished_at": 9,
    }
    people = [done | {"contact_id": f"gone-{number}", "forgotten_at": number * 60_000_000} for number in range(60)]
    people[3] |= {"kafka_until": 4102444800_000_000}
    people[5] |= {"finished_at": None}
    async with log.write() as connection:
        for one in people:
            await connection.execute(insert(erasure).values(**one))
    await log.close()
    await service.start()

    def ours(*words: str) -> str:
        done = warm.run(["privacy", "report", "--config", str(service.config), *words], service.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    table, found = ours(), json.loads(ours("--json", "--tenant", SLUG))
    async with aiohttp.ClientSession() as session:
        asked = await get(session, service, "/api/v1/privacy")
    await service.stop()
    (tenant,) = found["tenants"]
    assert asked["tenants"] == [tenant]
    assert (tenant["tenant"], tenant["people"], tenant["people_precision"]) == (SLUG, 2, "exact")
    held = {one["place"]: one["rows"] for one in tenant["held"]}
    assert (held["contacts"], held["messages"], held["parked_deliveries"]) == (3, 5, 5)
    assert f"{SLUG}: of 2 people" in table
    assert "parked deliveries" in table
    said = " ".join(table.split())  # a terminal breaks lines
    assert "contact gone-59: forgotten 1970-01-01T00:59Z contact" in said
    assert "contact gone-3: forgotten 1970-01-01T00:03Z, topics may have them until 2100-01-01T00:00Z" in said
    assert "contact gone-5: forgotten 1970-01-01T00:05Z, not finished, run `forget` again" in said
    assert "gone-9:" not in table
    assert "and 8 earlier" in table
    for text in (table, json.dumps(asked)):
        assert not [one for one in ("Ana", "Rui", ANAS_NUMBER, "secret") if one in text]


async def test_each_process_is_shown_with_its_key(tmp_path: Path) -> None:
    """A receiver without the key that a command has is named by `privacy keys` and `forget`, until it has the same."""
    service = Service(tmp_path / "service", settings={f"tenants.{SLUG}": {"tenant_id": TENANT}})
    async with story(f"sqlite:///{service.folder / 'log.db'}"):
        pass
    key = tmp_path / "secrets"
    key.mkdir()
    (key / "privacy__key").write_text(KEY)

    def said(*words: str) -> tuple[int, str]:
        done = warm.run([*words, "--config", str(service.config), "--secrets-dir", str(key)], service.folder)
        return done.returncode, done.stdout + done.stderr

    async with started(service):
        status, table = said("privacy", "keys")
        assert status == 1
        assert "no key  DIFFERS" in table
        process = next(line.split("  ")[0] for line in table.splitlines() if "DIFFERS" in line)
        # Whoever has the role that forgetting takes, the service or this test: to run it again would not help.
        log = await open_log(DatabaseTarget(f"sqlite:///{service.folder / 'log.db'}"), migrate=False)
        blanking = RoleLock(log, BLANKING)
        await blanking.take()
        status, refused = said("forget", "--tenant", SLUG, "--contact", ANAS_NUMBER, "--go")
        await blanking.release()
        await log.close()
        assert status == 2
        assert f"{process} has no key" in refused.replace("\n", " ")
    assert said("privacy", "keys")[0] == 0
    service = Service(service.folder, settings={f"tenants.{SLUG}": {"tenant_id": TENANT}, "privacy": {"key": KEY}})
    async with started(service):
        status, shown = said("privacy", "keys", "--json")
        (one,) = json.loads(shown)["processes"]
        assert (status, one["fits"], one["fingerprint"]) == (0, True, Marker(KEY.encode()).fingerprint)
        assert KEY not in shown
