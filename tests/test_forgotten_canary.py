"""The canary of forgetting: a person in every place where one can be is erased by the command, beside a service.

Their mark, number and texts are in all nine event types, in every dialect of the twin, in the samples of deliveries, in
observations, parked deliveries and events, in a group, nested in other people's events, in items of a backfill and in a
drift. A second person is in all of them too, and stays as they are to the byte.
"""

import asyncio
import hashlib
import json
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from sqlalchemy import insert

from servers.compare import until_applied
from servers.service import SECRET, SLUG, TENANT, Service, command
from whatsms_events.clock import now
from whatsms_events.contracts.published import published
from whatsms_events.domain.drift import Finding
from whatsms_events.domain.events import EventType, to_micros
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage import tables
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.verify import verify
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.twin.account import Account, Webhook
from whatsms_events.twin.dialects import DIALECTS
from workers.test_forgetting import ANA, KEY, RUI, House, Someone, filled, holding, needles, opened, unlike

pytestmark = pytest.mark.process

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

AN_HOUR_AGO: Final = now() - timedelta(hours=1)
DATABASES: Final = ("event_log", "parked_delivery", "backfill_item", "parked_event")
TABLES: Final = ("contact", "ticket", "message", "message_revision")
NINE: Final = {one.value for one in EventType if not one.endswith((".observed", ".forgotten"))}
PATHS: Final[Sequence[str]] = sorted(json.loads(published()["openapi.json"])["paths"])


def told_by_the_twin() -> dict[str, list[Webhook]]:
    """Return what WhatSMS sends of both people, in each of its dialects, by their marks."""
    told: dict[str, list[Webhook]] = {ANA.mark: [], RUI.mark: []}
    for number, dialect in enumerate(DIALECTS.values()):
        account = Account(
            random.Random(number), start=AN_HOUR_AGO, tenant_id=TENANT, dialect=dialect, unit_s=1, keep=100
        )
        for one in (ANA, RUI):
            lived(account, one)
            told[one.mark] += account.outbox
            account.outbox = []
    return told


def lived(account: Account, one: Someone) -> None:
    """Let somebody come, write, be answered, edit, delete, be called otherwise, and end; a campaign meets them."""
    email, picture = f"{one.mark}@exemplo.pt", f"https://x.example/{one.mark}.jpg"
    extra = [{"name": f"{one.mark} a", "value": one.number}]
    contact = account.add_contact(name=one.mark, number=one.number, extra_info=extra, email=email, picture_url=picture)
    ticket = account.open_ticket(contact, "whatsapp", user=account.users[0], queue=account.queues[0])
    asked = account.add_message(contact, ticket, f"{one.mark} olá", from_me=False, media=("image", f"{one.mark}.jpg"))
    answer = account.add_message(contact, ticket, f"{one.mark}, bom dia", from_me=True, quoted=asked.id)
    for ack in (2, 3, 4):
        account.acknowledge(answer, ack)
    account.now += timedelta(seconds=10)
    asked.body = f"{one.mark} olá!"
    account.announce_message(asked)
    asked.deleted = True
    account.announce_message(asked)
    contact.name = f"{one.mark} Silva"
    account.touch_contact(contact)
    ticket.status = "closed"
    account.touch_ticket(ticket)
    account.touch_ticket(ticket, closing=False)
    account.finish_campaign(account.add_campaign("Promo", "Olá"))


def campaign_of(one: Someone) -> bytes:
    """Return a campaign with a field that nobody knows, and that names somebody."""
    campaign = {"id": f"campaign-{one.contact}", "name": "Promo", "recipient": {"number": one.number, "n": one.mark}}
    at = AN_HOUR_AGO.isoformat()
    value = {"event": "campaign.finished", "tenantId": TENANT, "timestamp": at, "data": {"campaign": campaign}}
    return json.dumps(value, ensure_ascii=False).encode()


async def compared(house: House) -> None:
    """Leave a backfill unfinished that holds something of both, and has found that both differ."""
    checkpoints = Checkpoints(house.log)
    run = await checkpoints.begin(TENANT, "reconcile", "test", Options(), now())
    shown = []
    for one in (ANA, RUI):
        about = {"id": one.contact, "name": one.mark, "number": one.number}
        payload = msgspec.msgpack.encode({"payload": json.dumps({"contact": about}, ensure_ascii=False).encode()})
        shown.append(Item("contact", one.contact, "read", now(), now(), 1, payload=payload))
    drift = [Finding("contact", one.contact, "stale", ("name",), 1.0) for one in (ANA, RUI)]
    await checkpoints.save(run, b"{}", now=now(), items=shown, drift=drift)


async def not_applied(house: House) -> None:
    """Append rows of both that no code can decode: the consumer parks them."""
    for one in (ANA, RUI):
        raw = json.dumps({"contact": {"id": one.contact, "name": one.mark, "number": one.number}}).encode()[:-1]
        row = {
            "id": uuid4(), "type": "contact.updated", "tenant": TENANT, "received_at": to_micros(AN_HOUR_AGO),
            "origin": "webhook", "contact_id": one.contact, "sha256": hashlib.sha256(raw).digest(),
            "data": raw.decode(), "raw": raw,
        }  # fmt: skip
        async with house.log.write() as connection:
            await connection.execute(insert(tables.event_log).values(row))


class Person(Service):
    """The service, and what it is asked for."""

    def begin(self) -> aiohttp.ClientSession:
        """Return a session for many questions."""
        return aiohttp.ClientSession(self.private_url, timeout=aiohttp.ClientTimeout(total=120))

    async def deliver(self, session: aiohttp.ClientSession, bodies: Sequence[bytes]) -> None:
        """Deliver everything, signed; each must be accepted or parked."""

        async def one(body: bytes) -> int:
            headers = {HEADER: sign(body, SECRET.encode())}
            async with session.post(self.webhook_url, data=body, headers=headers) as answer:
                return answer.status

        for start in range(0, len(bodies), 50):
            statuses = await asyncio.gather(*(one(body) for body in bodies[start : start + 50]))
            assert set(statuses) <= {200, 202}, statuses

    async def said(self, session: aiohttp.ClientSession, rows: Rows) -> dict[str, str]:
        """Ask every route for everything that it has, and return the answers by their paths."""
        places = [place for path in PATHS for place in asked(path, rows)] + pages(rows)
        answers: dict[str, str] = {}

        async def ask(place: str) -> None:
            async with session.get(place) as answer:
                answers[place] = f"{answer.status} {dict(answer.headers, Date='')} {await answer.text()}"

        for start in range(0, len(places), 20):
            await asyncio.gather(*(ask(place) for place in places[start : start + 20]))
        answers["/api/v1/stream"] = await self.streamed(session, max(row["position"] for row in rows["event_log"]))
        return answers

    async def streamed(self, session: aiohttp.ClientSession, end: int) -> str:
        """Return the feed from the log's beginning to its end."""
        heard = ""
        async with session.get("/api/v1/stream", params={"after": "0"}) as answer:
            while not re.search(rf"^id: ?\S*\b{end}\b", heard, re.MULTILINE):
                heard += (await answer.content.readany()).decode("utf-8", "replace")
        return heard


def asked(path: str, rows: Rows) -> list[str]:
    """Return the places behind a path: one for each thing that is held."""
    resource = re.search(r"/(tickets|contacts|messages|campaigns|trace)/\{id\}", path)
    if "{id}" in path:
        assert resource is not None, path
        of = resource[1]
        ids = [row["id"] for row in rows[of.removesuffix("s")]] if of != "trace" else traced(rows)
        return [path.replace("{slug}", SLUG).replace("{id}", str(one).replace("\0", "%00")) for one in ids]
    if "{position}" in path:
        return [path.replace("{position}", f"{row['position']}?raw=1") for row in rows["event_log"]]
    if path in ("/contracts/{file}", "/api/v1/stream"):
        return []
    place = path.replace("{slug}", SLUG).replace("{number}", "1").replace("{role}", "receiver")
    if place.endswith("/conversations"):
        return [f"{place}?find={one}" for one in (ANA.number, RUI.number, "x")]
    return [place]


def pages(rows: Rows) -> list[str]:
    """Return the pages of the console: all that show anything of what is held, and each ticket and parked delivery."""
    found = ["/", "/now", "/live", "/acks", "/parked", "/parked?stage=fold", "/repair", "/repair/piece"]
    found += [f"/repair/run?tenant={SLUG}&run=1", f"/conversations?tenant={SLUG}", f"/passport?find={traced(rows)[0]}"]
    for row in rows["ticket"]:
        found.append(f"/conversations/ticket?{urlencode({'tenant': SLUG, 'id': row['id']})}")
    for row in rows["parked_delivery"]:
        found += [f"/parked/one?name={row['id']}&bytes=1", f"/parked/bytes?name={row['id']}"]
    return found


def traced(rows: Rows) -> list[str]:
    """Return what `trace` is asked for: an event of each type, and every parked delivery."""
    events = {(row["type"], row["contact_id"]): str(row["id"]) for row in rows["event_log"]}
    return [*events.values(), *(str(row["id"]) for row in rows["parked_delivery"])]


@asynccontextmanager
async def installed(url: str, folder: Path) -> AsyncIterator[tuple[House, Person, aiohttp.ClientSession]]:
    """Give an installation that holds both people in every place."""
    settings: dict[str, dict[str, object]] = {"privacy": {"key": KEY.decode()}, "logs": {"level": "debug"}}
    settings["sealer"] = {"enabled": False}
    settings["retention"] = {"parked_days": 0, "items_days": 0, "drift_days": 0}
    if not url.startswith("sqlite"):
        settings["database"] = {"url": url}
    async with opened(url, folder) as house:
        await filled(house)
        await compared(house)
        await not_applied(house)
        service = Person(folder, settings=settings)
        await service.start()
        try:
            async with service.begin() as session:
                await service.deliver(session, [campaign_of(one) for one in (ANA, RUI)])
                await service.deliver(session, [one.body for some in told_by_the_twin().values() for one in some])
                await until_applied(house.log, house.projection, 60)
                yield house, service, session
        finally:
            await service.stop()


async def test_nothing_of_a_forgotten_person_is_left_anywhere(database_url: str, tmp_path: Path) -> None:
    """No byte of a file, no row, no answer of a route or page, no log line, no metric; of the other one all is there.

    The dry run has said what is touched, by table, and the seals still hold.
    What comes once more, as it was and as a retry writes it, changes nothing of that.
    """
    async with installed(database_url, tmp_path) as (house, service, session):
        before = await house.everything()
        tables_with = {table for table, _ in holding(before, needles(ANA))}
        assert tables_with == {*DATABASES, *TABLES}
        assert {row["type"] for row in before["event_log"]} >= NINE
        answers = await service.said(session, before)
        assert len([1 for text in answers.values() if ANA.mark in text]) > 100
        assert len([1 for place in pages(before) if ANA.mark in answers[place]]) > 10
        assert 'whatsms_events_role_state{role="forgetting"} 1.0' in answers["/metrics"]
        preview = await house.forgetting().preview(TENANT, ANA.number)
        seals = Seals(house.log)
        await seals.add(None, await seals.end(), now())
        done = json.loads(command(service, "forget", "--tenant", SLUG, "--contact", ANA.number, "--go", "--json"))
        assert {table: done["rows"][table] for table in preview.counts} == preview.counts
        assert set(done["rows"]) == tables_with
        after = await unfound(house, service)
        (changed,) = unlike(before, after, RUI)
        assert changed[1]["message_id"] == "g-rui"  # it quotes a message of hers
        assert RUI.mark in {row["message_id"]: row["data"] for row in after["event_log"]}["g-rui"]
        seen = await verify(house.log)
        assert (seen.flaw, seen.seals, seen.blanked > 40) == (None, 1, True)
        again = await service.said(session, after)
        for place, text in again.items():
            assert [one for one in needles(ANA) if one in text.encode()] == [], place
        apart = {place for place, text in answers.items() if ANA.mark in text} | {*pages(before)}  # pages tell the time
        his = [place for place, text in answers.items() if RUI.mark in text and place not in apart]
        assert len(his) > 100
        assert [place for place in his if again[place] != answers[place]] == []
        late = told_by_the_twin()[ANA.mark]
        await service.deliver(session, [body for one in late for body in (one.body, one.retry) if body is not None])
        await until_applied(house.log, house.projection, 60)
        await unfound(house, service)


async def unfound(house: House, service: Person) -> Rows:
    """Check that no row, no byte of a file and no log line has anything of the person; return all rows."""
    rows, wanted = await house.everything(), needles(ANA)
    assert holding(rows, wanted) == []
    assert [one for one in wanted if one in house.files()] == []
    logged = (service.folder / "output.log").read_bytes()
    assert [one for one in (*wanted, *needles(RUI)) if one in logged] == []
    return rows
