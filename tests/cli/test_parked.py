"""What a person does about parked deliveries, command by command, beside a running service."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from sqlalchemy import insert, select

from cli.commands import Done, make_log, run, run_raw
from servers.compare import until
from servers.service import SECRET, SLUG, TENANT, Service
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.tables import event_log, parked_delivery, parked_event

pytestmark = pytest.mark.process

GARBAGE = b"\xff\x00{not json\r\n\n"
UNKNOWN = json.dumps({"event": "ticket.merged", "tenantId": TENANT, "data": {"ticket": {"id": "t-1"}}}).encode()
NOBODY = "00000000-0000-8000-8000-000000000000"


def contact(name: str) -> bytes:
    """Return a delivery that every release can read."""
    data = {"contact": {"id": "c-77", "name": name}}
    at = "2026-01-15T10:30:00Z"
    return json.dumps({"event": "contact.updated", "tenantId": TENANT, "timestamp": at, "data": data}).encode()


async def post(session: aiohttp.ClientSession, service: Service, body: bytes) -> dict[str, Any]:
    """Send a signed delivery; return the answer with its status."""
    async with session.post(service.webhook_url, data=body, headers={HEADER: sign(body, SECRET.encode())}) as answer:
        said: dict[str, Any] = await answer.json()
        return said | {"status": answer.status}


async def get(session: aiohttp.ClientSession, service: Service, path: str) -> Any:
    """Ask the read API; None where there is nothing."""
    async with session.get(f"{service.private_url}/api/v1/{path}") as answer:
        return await answer.json() if answer.status == 200 else None


async def park(database_url: str, body: bytes, tenant: str = TENANT) -> UUID:
    """Leave a delivery as a release would have that did not know its event yet."""
    parked_id = uuid4()
    row = {
        "id": parked_id, "tenant": tenant, "reason": "unknown_event", "detail": "event",
        "received_at": to_micros(datetime(2026, 1, 15, 10, 30, tzinfo=UTC)), "raw": body,
        "sha256": hashlib.sha256(body).digest(), "content_encoding": None, "count": 1,
    }  # fmt: skip
    log = await open_log(DatabaseTarget(url=database_url), migrate=False)
    async with log.write() as connection:
        await connection.execute(insert(parked_delivery).values(row))
    await log.close()
    return parked_id


async def test_parked_deliveries_are_seen_to_beside_a_running_service(database_url: str, tmp_path: Path) -> None:
    """Garbage is listed with its reason and shown to the byte; what can be read by now is appended at the log's end and
    applied by the running service; what cannot stays parked with status 1; discarded is gone, until it is restored.
    """
    service = Service(tmp_path / "service", settings={"database": {"url": database_url}})

    def parked(*words: object) -> Done:
        return run(service.folder, "parked", *map(str, words), "--config", str(service.config), config=None)

    if not database_url.startswith("sqlite"):
        assert run(service.folder, "db", "upgrade", "--config", str(service.config), config=None).status == 0
    await service.start()
    async with aiohttp.ClientSession() as session:
        garbage, again = [await post(session, service, GARBAGE) for _ in range(2)]
        unknown = await post(session, service, UNKNOWN)
        assert [garbage["status"], again["status"], unknown["status"]] == [202, 202, 202]
        assert garbage["id"] == again["id"]
        before = await post(session, service, contact("Ana"))

        known_by_now = await park(database_url, contact("Beatriz"))
        listed = parked("list")
        assert (listed.status, listed.err) == (0, [])
        oldest, first, second = listed.out  # by arrival, and the one that was left here came in January
        assert oldest.startswith(f"{known_by_now}  2026-01-15T10:30:00+00:00  {SLUG}  unknown_event event  x1  ")
        place = rf"{garbage['id']}  \S+\+00:00  {SLUG}  {garbage['parked']} .*  x2  {len(GARBAGE)} bytes"
        assert re.fullmatch(place, first)
        assert second.startswith(unknown["id"])
        assert parked("list", "--limit", 1).out == [oldest]

        retried = parked("retry", known_by_now)
        assert retried == Done(0, [f"appended at position {before['position'] + 1}"], [])

        async def applied() -> bool:
            found = await get(session, service, f"{SLUG}/contacts/c-77")
            return bool(found and found["name"] == "Beatriz")

        await until(applied, 30, "the running service applied what was appended beside it")
        events = await get(session, service, "events")
        assert [event["position"] for event in events["events"]][-1] == before["position"] + 1

        for stuck in (garbage, unknown):
            failed = parked("retry", stuck["id"])
            assert (failed.status, failed.out) == (1, [])
            assert re.fullmatch(rf"InvalidEventError: {stuck['parked']}: .*\(it stays parked\)", failed.err[0])
        assert parked("list").out == [first, second]

        assert parked("discard", unknown["id"]) == Done(0, ["discarded"], [])
        assert parked("list").out == [first]
        assert parked("list", "--discarded").out[0].startswith(f"{second}  discarded 20")
        assert parked("restore", unknown["id"]) == Done(0, ["restored"], [])
        assert parked("list").out == [first, second]
    await service.stop()


async def test_bytes_of_a_parked_delivery_come_out_as_they_came_in(tmp_path: Path) -> None:
    """`parked show` writes the body to standard output and nothing else; what a terminal would change is unchanged."""
    url = make_log(tmp_path)
    body = bytes(range(256)) + b"\r\n"
    parked_id = await park(url, body)
    done = run_raw(tmp_path, "parked", "show", str(parked_id), "--set", f"database.url={url}")
    assert (done.returncode, done.stdout, done.stderr) == (0, body, b"")


async def test_what_is_in_the_log_already_is_not_appended_twice(tmp_path: Path) -> None:
    """Of two parked copies of the same bytes one is appended; the other is told where, and both are gone."""
    url = make_log(tmp_path)
    where = ("--set", f"database.url={url}")
    first, second = [await park(url, contact("Ana")) for _ in range(2)]
    assert run(tmp_path, "parked", "retry", str(first), *where).out == ["appended at position 1"]
    assert run(tmp_path, "parked", "retry", str(second), *where).out == ["was in the log already at position 1"]
    assert run(tmp_path, "parked", "list", *where).out == []


def test_a_parked_delivery_that_is_not_there_is_said(tmp_path: Path) -> None:
    """An id that nobody has is status 1 for `show`, `retry`, `discard` and `restore`."""
    make_log(tmp_path / "var")
    for verb in ("show", "retry", "discard"):
        assert run(tmp_path, "parked", verb, NOBODY) == Done(1, [], [f"NotFoundError: no parked delivery {NOBODY}"])
    gone = f"NotFoundError: no discarded delivery {NOBODY}"
    assert run(tmp_path, "parked", "restore", NOBODY) == Done(1, [], [gone])


async def test_what_was_parked_for_a_wrong_tenant_id_is_appended_once_the_setting_is_right(tmp_path: Path) -> None:
    """A delivery that was parked under an id that no tenant has any more is for the tenant that it names; one under an
    id that a tenant has stays parked, whatever it names.
    """
    url = make_log(tmp_path / "var")
    mended = await park(url, contact("Ana"), tenant="mistyped")
    foreign = await park(url, contact("Bia").replace(TENANT.encode(), b"somebody-else"))
    done = run(tmp_path, "parked", "retry", str(mended))
    assert (done.status, done.out) == (0, ["appended at position 1"])
    done = run(tmp_path, "parked", "retry", str(foreign))
    assert done.status == 1
    assert "other_tenant" in done.err[-1]
    assert len(run(tmp_path, "parked", "list").out) == 1


async def park_event(folder: Path, reason: str = "data") -> dict[str, Any]:
    """Leave the first event of a log parked at the fold, as a release would have that could not read it."""
    log = await open_log(DatabaseTarget(url=f"sqlite:///{folder / 'log.db'}"), migrate=False)
    async with log.read() as connection:
        event = (await connection.execute(select(event_log))).mappings().first()
    await log.close()
    assert event is not None
    row = {
        "source": "log", "at": event["position"], "event_id": event["id"], "position": event["position"],
        "tenant": TENANT, "type": event["type"], "reason": reason, "detail": "why",
        "parked_at": to_micros(datetime(2026, 1, 15, 10, 30, tzinfo=UTC)), "raw": event["data"].encode(),
        "headers": "[]",
    }  # fmt: skip
    projection = await open_projection(DatabaseTarget(url=f"sqlite:///{folder / 'projection.db'}"), migrate=False)
    async with projection.write() as connection:
        await connection.execute(insert(parked_event).values(row))
    await projection.close()
    return dict(event)


async def test_parked_events_are_seen_to_like_parked_deliveries(tmp_path: Path) -> None:
    """An event is listed by its place, shown to the byte, retried and discarded, alone or by its reason."""
    url = make_log(tmp_path / "var")
    assert run(tmp_path, "parked", "retry", str(await park(url, contact("Ana")))).status == 0
    event = await park_event(tmp_path / "var")
    (line,) = run(tmp_path, "parked", "list").out
    size = len(event["data"].encode())
    assert line == f"log@1  2026-01-15T10:30:00+00:00  {SLUG}  contact.updated  data why  {size} bytes"
    assert run(tmp_path, "parked", "list", "--stage", "door").out == []
    assert run(tmp_path, "parked", "list", "--reason", "another").out == []
    assert run_raw(tmp_path, "parked", "show", "log@1").stdout == event["data"].encode()
    assert run(tmp_path, "parked", "retry", "log@1") == Done(0, ["1 events applied"], [])
    assert run(tmp_path, "parked", "retry", "log@1") == Done(1, [], ["NotFoundError: no parked event log@1"])
    await park_event(tmp_path / "var")
    (told,) = run(tmp_path, "parked", "discard", "--reason", "data").out
    assert run(tmp_path, "parked", "retry", "log@1").status == 1
    at = told.removeprefix("1 discarded; to undo it: parked restore --reason data --discarded-at ")
    assert run(tmp_path, "parked", "list", "--discarded").out == [f"{line}  discarded {at}"]
    for when, count in (("2026-01-15T10:30:00Z", 0), (at, 1)):
        undone = run(tmp_path, "parked", "restore", "--reason", "data", "--discarded-at", when)
        assert undone.out == [f"{count} restored"]
    assert run(tmp_path, "parked", "discard", "log@1").out == ["discarded"]
    assert run(tmp_path, "parked", "list").out == []


async def test_a_reason_takes_all_that_was_parked_for_it(tmp_path: Path) -> None:
    """`--reason` retries deliveries and events alike, each once; what is still not understood makes it status 1."""
    url = make_log(tmp_path / "var")
    for body in (contact("Ana"), contact("Beatriz"), UNKNOWN):
        await park(url, body)
    done = run(tmp_path, "parked", "retry", "--reason", "unknown_event")
    assert (done.status, done.out) == (1, ["deliveries: 2 appended, 1 still parked", "0 events applied"])
    assert run(tmp_path, "parked", "discard", "--reason", "unknown_event", "--stage", "fold").out == ["0 discarded"]
    assert run(tmp_path, "parked", "discard", "--reason", "unknown_event").out[0].startswith("1 discarded; ")


@pytest.mark.parametrize("words", [[], ["log@1", "--reason", "data"], ["log"], ["log@-1"], ["@1"], [f"log@{'9' * 20}"]])
def test_what_names_nothing_that_could_be_parked_is_status_2(tmp_path: Path, words: list[str]) -> None:
    """Neither an id, nor a place, nor a reason, or two of them at once."""
    make_log(tmp_path / "var")
    done = run(tmp_path, "parked", "discard", *words)
    assert (done.status, len(done.err)) == (2, 1)
