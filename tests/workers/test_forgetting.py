"""A person is forgotten on real databases: nothing of them is left anywhere, nothing of anybody else is touched."""

import asyncio
import contextlib
import gzip
import hashlib
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from servers.compare import assert_replay_differs_in_nothing
from whatsms_events.domain import drift
from whatsms_events.domain.events import Contact, ContactPayload, EventType, decode
from whatsms_events.domain.marks import Marker
from whatsms_events.domain.replay import WHOLE
from whatsms_events.domain.signature import sign
from whatsms_events.domain.verdicts import Append, Delivery
from whatsms_events.errors import ConfigError, NotFoundError, TransientError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.erasure import Erasures
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Selected
from whatsms_events.storage.log.suppression import HeldSuppressions, KeptMark, SuppressionTable, add_marks, key_row
from whatsms_events.storage.person_search import PersonSearch
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.erasure import PersonalRows
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.forgetting import Forgetting, ForgettingWaits
from whatsms_events.workers.older_tables import OlderTables
from whatsms_events.workers.replay import ROLE
from whatsms_events.workers.sources import LogSource

pytestmark = pytest.mark.slow  # a third of a second each, for which `make check` has no time

TENANT, SLUG = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10", "acme"
SECRET, KEY = b"whsec-tests-only-0123456789abcdef", b"privacy-key-of-the-tests"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SAMPLES = Path(__file__).parent.parent / "deliveries"
FRAME = frozenset(
    {"event", "tenantId", "timestamp", "status", "channel", "mediaType", "id", "isGroup", "chatbot", "ack", "type"}
)
"""Fields that are no one's: ids, words and times."""


@dataclass(frozen=True, slots=True)
class Someone:
    """Somebody with marked values and with ids of their own."""

    mark: str
    number: str
    contact: str
    ticket: str

    def told(self, value: Any, key: str = "", owner: str = "") -> Any:
        """Return a sample as it would be of this person: every text marked, every id theirs."""
        kind = owner if key == "id" else key.removesuffix("Id")
        told: Any = value
        if isinstance(value, dict):
            shared = key in ("user", "queue", "campaign")
            told = value if shared else {name: self.told(one, name, key or owner) for name, one in value.items()}
        elif isinstance(value, list):
            told = [self.told(one, key, owner) for one in value]
        elif kind in ("contact", "ticket") and value:
            told = self.contact if kind == "contact" else self.ticket
        elif kind in ("message", "quotedMsg") and value:
            told = f"{self.ticket}-{value}"
        elif key == "number":
            told = self.number
        elif isinstance(value, str) and value and key not in FRAME and not key.endswith(("At", "Id", "_at")):
            told = f"{self.mark} {value}"
        return told


ANA = Someone("Canária-7f3a91", "351987654321", "contact-of-ana", "ticket-of-ana")
RUI = Someone("Rui-Ninguém-5521", "351911112222", "contact-of-rui", "ticket-of-rui")


def samples(one: Someone) -> list[bytes]:
    """Return every sample of a delivery as it would be of this person, but for campaigns and groups."""
    found = []
    for path in sorted(SAMPLES.glob("*.json")):
        if path.name.endswith(".event.json") or path.name.startswith("campaign") or ".group." in path.name:
            continue
        with contextlib.suppress(ValueError, UnicodeError):
            value = json.loads(path.read_text())
            flat = {**value, "tenantId": TENANT}
            about = str(value["event"]).partition(".")[0]
            data = flat.get("data")
            if isinstance(data, dict) and not isinstance(data.get(about), dict):
                flat["data"] = one.told(data, "", about)
            else:
                flat = one.told(flat)
            found.append(json.dumps(flat, ensure_ascii=False).encode())
    assert len(found) > 30
    return found


def at(seconds: float) -> str:
    """Write a time of the test."""
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def body(event: str, seconds: float = -60, **data: Any) -> bytes:
    """Return a delivery."""
    envelope = {"event": event, "tenantId": TENANT, "timestamp": at(seconds), "data": data}
    return json.dumps(envelope, ensure_ascii=False).encode()


def wrote(one: Someone, message_id: str, text: str = "", seconds: float = -60, **more: Any) -> bytes:
    """Return a message of somebody in their own ticket, with everything beside it."""
    contact = {"id": one.contact, "name": one.mark, "number": one.number, "email": f"{one.mark}@exemplo.pt"}
    message = {"id": message_id, "body": f"{one.mark} {text}", "fromMe": False, "createdAt": at(seconds), **more}
    ticket = {"id": one.ticket, "status": "open", "lastMessage": f"{one.mark} {text}", "contact": contact}
    return body("message.received", seconds, message=message, ticket=ticket, contact=contact)


def in_group(author: Someone, message_id: str, text: str, last: str, **more: Any) -> bytes:
    """Return a message in a group: the ticket is the group's, the message names its author."""
    group = {"id": "contact-of-group", "name": "Condomínio", "number": "120363041234567890@g.us", "isGroup": True}
    message = {
        "id": message_id, "body": text, "fromMe": False, "contactId": author.contact, "createdAt": at(-50), **more
    }  # fmt: skip
    ticket = {"id": "ticket-of-group", "status": "open", "lastMessage": last, "contact": group}
    return body("message.received", -50, message=message, ticket=ticket, contact=group)


@dataclass(slots=True)
class House:
    """A log, a projection, and who works on them. `clock` is what everybody takes for the time."""

    log: Database
    projection: Database
    folder: Path
    clock: datetime = NOON
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def deliver(self, *bodies: bytes, key: bytes | None = KEY) -> list[Outcome]:
        """Let a receiver take signed deliveries in, and let the consumer apply them."""
        outcomes = await self.take_in(*bodies, key=key)
        await self.apply()
        return outcomes

    async def take_in(self, *bodies: bytes, key: bytes | None = KEY) -> list[Outcome]:
        """Let a receiver take signed deliveries in."""
        return await self.receive([self.signed(one) for one in bodies], key=key)

    async def receive(self, deliveries: Sequence[Delivery], *, key: bytes | None = KEY) -> list[Outcome]:
        """Let a receiver take in what came, in this order."""
        stop = asyncio.Event()
        held = HeldSuppressions(self.log, key, monotonic=lambda: next(self.numbers) * 0.6)  # looks each time
        await held.look()
        await held.show_key()
        committer = Committer(
            self.log, batch_limit=500, queue_limit=5000, queue_limit_bytes=1 << 28, on_commit=lambda _: None,
            suppressions=held,
        )  # fmt: skip
        running = asyncio.create_task(committer.run(stop))
        outcomes = await asyncio.gather(*(committer.deliver(one, deadline_s=60) for one in deliveries))
        stop.set()
        await running
        return outcomes

    def signed(self, payload: bytes) -> Delivery:
        """Return a delivery as it comes now."""
        digest = bytes.fromhex(sign(payload, SECRET).removeprefix("sha256="))
        encoding = "gzip" if payload.startswith(b"\x1f\x8b") else None
        return Delivery(SLUG, TENANT, {"current": SECRET}, digest, payload, encoding, self.clock)

    async def apply(self) -> None:
        """Let the consumer apply everything."""
        older = OlderTables(self.log, self.projection, Marker(KEY), now=lambda: self.clock)
        source, lock = LogSource(EventLog(self.log)), RoleLock(self.log, "consumer")
        consumer = Consumer(Projection(self.projection), source, lock, batch_limit=100, older=older)
        while await consumer.run_once():
            pass
        await consumer.close()

    def forgetting(self, *, behind_s: float = 0.0) -> Forgetting:
        """Return what the command works with."""
        return Forgetting(
            self.log, self.projection, Marker(KEY), prefix=None, keeps_until=lambda _: None,
            now=lambda: self.clock, waits=ForgettingWaits(settle_s=0, behind_s=behind_s),
        )  # fmt: skip

    async def forget(self, who: str) -> dict[str, int]:
        """Forget somebody while a consumer works beside it; return what was blanked, by table."""
        with contextlib.suppress(TransientError):
            await self.forgetting().run(TENANT, who)
        await self.apply()
        done = await self.forgetting().run(TENANT, who)
        for one in (self.log, self.projection):
            assert await scrub(one, rewrite=True)
        return done.counts

    async def everything(self) -> dict[str, list[dict[str, Any]]]:
        """Return every row of every table, by the table's name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for database, metadata in (
            (self.log, tables.log_metadata),
            (self.projection, tables.projection_metadata),
        ):
            async with database.read() as connection:
                for table in metadata.sorted_tables:
                    rows = await connection.execute(select(table).order_by(*table.primary_key))
                    found[table.name] = [dict(row) for row in rows.mappings()]
        return found

    def files(self) -> bytes:
        """Return every byte of every file of both databases, none with PostgreSQL.

        Another process reads them: with a file that we close all our locks on it are gone, those of SQLite too.
        """
        files = sorted(one for one in self.folder.iterdir() if ".db" in one.name)
        return subprocess.run(["cat", *files], stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[House]:
    """Give an empty house."""
    projection_url = url.replace("log.db", "projection.db")
    log = await open_log(DatabaseTarget(url), migrate=True)
    projection = await open_projection(DatabaseTarget(projection_url), migrate=True)
    try:
        yield House(log, projection, folder)
    finally:
        await projection.close()
        await log.close()


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """Give an empty house on each kind of database."""
    async with opened(database_url, tmp_path) as made:
        yield made


def needles(one: Someone) -> list[bytes]:
    """Return what must not be found anywhere: mark and number, in each spelling that JSON has."""
    escaped = json.dumps(one.mark)[1:-1]
    texts = (one.mark, escaped, escaped.upper(), one.mark.lower(), one.number, one.number[::-1])
    return [text.encode() for text in texts]


def holding(rows: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Sequence[bytes]) -> list[tuple[str, Any]]:
    """Return table and row of each row that holds one of these."""
    found = []
    for table, some in rows.items():
        for row in some:
            whole = b"\0".join(one if isinstance(one, bytes) else str(one).encode() for one in row.values())
            if any(needle in whole for needle in wanted):
                found.append((table, row))
    return found


async def filled(house: House) -> None:
    """Let the house hold two people in every place where a person can be."""
    for one in (ANA, RUI):
        await house.deliver(*samples(one))
        # Two samples show a message and nobody; only this tells whose they are.
        for message_id in (f"{one.ticket}-last", f"{one.ticket}-a\x00b"):
            await house.deliver(body("message.ack", message={"id": message_id, "ack": 3}, ticket={"id": one.ticket}))
        await house.deliver(
            wrote(one, f"{one.contact}-m1", "primeira"),
            body("contact.updated", contact={"id": one.contact, "name": one.mark, "number": one.number}),
            body("message.sent", message={"id": f"{one.contact}-m2", "body": f"{one.mark} nós", "fromMe": True},
                 ticket={"id": one.ticket}),
            body("message.ack", message={"id": f"{one.contact}-m2", "ack": 3, "body": f"{one.mark} nós"}),
            body("ticket.closed", ticket={"id": one.ticket, "lastMessage": f"{one.mark} fim", "pushName": one.mark}),
            body("canary.event", contact={"id": one.contact, "name": one.mark}),  # parked: unknown
            b"{" + json.dumps({"contactId": one.contact, "name": one.mark, "n": one.number}).encode(),  # parked: cut
        )  # fmt: skip
        await observed(house, one)
    texts = {one.contact: f"{one.mark} no grupo" for one in (ANA, RUI)}
    author = {"id": ANA.contact, "name": ANA.mark}
    quoted = {"quotedMsg": {"id": "g-ana", "body": texts[ANA.contact], "contact": author}}
    await house.deliver(
        in_group(ANA, "g-ana", texts[ANA.contact], texts[ANA.contact]),
        in_group(RUI, "g-rui", texts[RUI.contact], texts[ANA.contact], **quoted),
        in_group(RUI, "g-rui-2", f"{RUI.mark} mais", f"{RUI.mark} mais"),
        body("ticket.updated", ticket={"id": "ticket-of-group", "status": "open", "lastMessage": texts[ANA.contact]}),
    )


async def observed(house: House, one: Someone) -> None:
    """Append what a backfill saw of somebody, and apply it."""
    seen = Contact(id=one.contact, name=one.mark, number=one.number, email=f"{one.mark}@x.pt")
    await append_observation(house, seen, NOON)
    await house.apply()


async def append_observation(house: House, seen: Contact, as_of: datetime) -> None:
    """Append what a backfill saw of a contact."""
    sighting = drift.Sighting("contact", str(seen.id), ContactPayload(contact=seen), as_of, 0)
    event, raw = drift.observation(TENANT, sighting, None, received_at=as_of)
    stop = asyncio.Event()
    committer = Committer(
        house.log, batch_limit=9, queue_limit=9, queue_limit_bytes=1 << 20, on_commit=lambda _: None,
        suppressions=HeldSuppressions(house.log, KEY),
    )  # fmt: skip
    running = asyncio.create_task(committer.run(stop))
    await committer.submit(Append(event, raw, hashlib.sha256(raw).digest()), deadline_s=60)
    stop.set()
    await running


async def backfilled(house: House, one: Someone) -> None:
    """Leave what an unfinished backfill holds of somebody."""
    run = {
        "tenant": TENANT, "kind": "reconcile", "cause": "test", "options": "{}", "generation": 1, "started_at": 1,
        "updated_at": 1, "progress": "{}",
    }  # fmt: skip
    item = {"run": 1, "entity": "contact", "id": one.contact, "state": "listed", "due_at": 1, "log_end": 0, "rounds": 0}
    async with house.log.write() as connection:
        await connection.execute(insert(tables.backfill_run).values(run))
        shown = {"payload": one.mark.encode(), "messages": "none", "raw": one.number.encode()}
        await connection.execute(insert(tables.backfill_item).values(**item, **shown))


def unlike(before: Mapping[str, Any], after: Mapping[str, Any], of: Someone) -> list[Any]:
    """Return the rows that hold somebody's mark before, and are not the same afterwards."""
    kept = {table: {str(row) for row in rows} for table, rows in after.items()}
    return [(table, row) for table, row in holding(before, needles(of)) if str(row) not in kept[table]]


async def test_the_event_names_ids_alone_and_comes_once(house: House) -> None:
    """`contact.forgotten` stands in the log once, has no value of the person, and leaves the tables as they are."""
    await house.deliver(wrote(ANA, "m-1"))
    await house.forget(ANA.contact)
    entries = [one for one in await EventLog(house.log).read(0, 100) if one.event.type is EventType.CONTACT_FORGOTTEN]
    (entry,) = entries
    payload = decode(entry.event)
    assert isinstance(payload, ContactPayload)
    assert payload.contact == Contact(id=ANA.contact)
    assert (entry.event.origin, entry.event.contact_id) == ("operator", ANA.contact)
    (one,) = await Erasures(house.log).all()
    assert one.finished_at is not None
    assert one.event_id == entry.event.id


async def test_what_comes_late_is_blanked_and_what_is_new_is_kept(house: House) -> None:
    """Redelivered, retried with other bytes, replayed or observed: blanked. A new message brings the person back."""
    old = wrote(ANA, "m-1", "antiga")
    await house.deliver(old)
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=9)
    again = json.dumps(json.loads(old), indent=1).encode()
    stamped = json.dumps({**json.loads(old), "timestamp": at(100)}).encode()
    late = wrote(ANA, "m-0", "nunca antes vista", seconds=-3600)
    data = {"contactId": ANA.contact, "n": ANA.mark}
    parked = json.dumps({"event": "x.y", "timestamp": at(-9), "data": data}).encode()
    await house.deliver(old, again, stamped, late, parked)
    await observed(house, ANA)
    assert holding(await house.everything(), needles(ANA)) == []
    await house.deliver(wrote(ANA, "m-9", "voltei", seconds=60))
    found = {table for table, _ in holding(await house.everything(), needles(ANA))}
    assert found == {"event_log", "contact", "ticket", "message", "message_revision"}
    await house.deliver(again, stamped, late)
    rows = await house.everything()
    assert [row["name"] for row in rows["contact"] if row["id"] == ANA.contact] == [ANA.mark]
    bodies = {row["id"]: row["body"] for row in rows["message"]}
    assert bodies == {"m-1": None, "m-0": None, "m-9": f"{ANA.mark} voltei"}


async def shown(house: House) -> dict[str, list[dict[str, Any]]]:
    """Return what the tables show: all but what registers remember."""
    rows = await house.everything()
    names = ("ticket", "message", "message_revision", "contact", "campaign")
    return {name: [{key: one for key, one in row.items() if key != "versions"} for row in rows[name]] for name in names}


async def test_what_is_new_stays_though_the_clock_was_set_back(house: House) -> None:
    """The receiver's clock is set back by half a minute: what they write now is theirs to keep, what they wrote before
    is blanked, and so is what came long before whatever its time says.
    """
    await house.deliver(wrote(ANA, "m-1"))
    house.clock += timedelta(seconds=10)
    await house.forget(ANA.contact)
    house.clock -= timedelta(seconds=30)
    await house.deliver(wrote(ANA, "m-new", "new", seconds=60), wrote(ANA, "m-old", "old", seconds=5))
    house.clock -= timedelta(minutes=10)
    await house.deliver(wrote(ANA, "m-ahead", "ahead", seconds=600))
    rows = await house.everything()
    assert {row["id"]: bool(row["body"]) for row in rows["message"]} == {
        "m-1": False, "m-new": True, "m-old": False, "m-ahead": False,
    }  # fmt: skip


async def test_tables_that_are_built_anew_are_those_that_were_blanked(house: House) -> None:
    """A rebuild from the blanked log shows the same, and brings nothing back."""
    await filled(house)
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    clean = await open_projection(DatabaseTarget(f"sqlite:///{house.folder / 'rebuilt.db'}"), migrate=True)
    anew = House(house.log, clean, house.folder)
    await anew.apply()
    ours, rebuilt = await shown(house), await shown(anew)
    await clean.close()
    assert ours == rebuilt


async def test_a_replay_takes_what_is_left_of_blanked_events(tmp_path: Path) -> None:
    """The whole log can still be read again: a rebuild differs in nothing, and nothing counts as lost."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", tmp_path) as house:
        await house.deliver(wrote(ANA, "m-1"), wrote(RUI, "m-2"), in_group(ANA, "g-ana", ANA.mark, ANA.mark))
        await house.forget(ANA.contact)
        assert (await Selected(house.log).blanked(WHOLE)).count == 0
        await assert_replay_differs_in_nothing(house.log, house.projection)


async def test_nothing_is_blanked_before_projection_has_caught_up(house: House) -> None:
    """Until then the command says what is behind, and the next one goes on with the same erasure."""
    await house.deliver(wrote(ANA, "m-1"))
    with pytest.raises(TransientError, match="applied up to 1, not up to 2"):
        await house.forgetting().run(TENANT, ANA.contact)
    assert holding(await house.everything(), needles(ANA)) != []
    assert len(await Erasures(house.log).all()) == 1
    await house.apply()
    await house.forgetting().run(TENANT, ANA.contact)
    assert holding(await house.everything(), needles(ANA)) == []
    assert len(await Erasures(house.log).all()) == 1


async def test_what_came_before_it_was_known_to_be_theirs_goes_too(house: House) -> None:
    """The tables were behind, so nothing told whose ticket it is: what came of it meanwhile is looked through again."""
    await house.take_in(wrote(ANA, "m-1"))
    house.clock += timedelta(seconds=1)
    with pytest.raises(TransientError):
        await house.forgetting().run(TENANT, ANA.contact)
    sent = {"id": "m-2", "body": f"{ANA.mark} nós", "fromMe": True, "createdAt": at(-60)}
    await house.take_in(body("message.sent", message=sent, ticket={"id": ANA.ticket}))
    await house.apply()
    with contextlib.suppress(TransientError):  # the log's end has moved, and the tables are behind once more
        await house.forgetting().run(TENANT, ANA.contact)
    await house.apply()
    done = await house.forgetting().run(TENANT, ANA.contact)
    assert done.erasure is not None
    assert holding(await house.everything(), needles(ANA)) == []
    assert len(await Erasures(house.log).all()) == 1
    events = [one.event.type for one in await EventLog(house.log).read(0, 100)]
    assert events.count(EventType.CONTACT_FORGOTTEN) == 1


async def test_without_the_key_nobody_is_forgotten(house: House) -> None:
    """No key, another key, or a key that no receiver has: said before anything changes. A stranger is nobody."""
    await house.deliver(wrote(ANA, "m-1"), key=None)
    with pytest.raises(ConfigError, match="no process of the service has started with it"):
        await house.forgetting().run(TENANT, ANA.contact)
    await house.deliver(wrote(RUI, "m-2"))
    other = Forgetting(
        house.log, house.projection, Marker(b"another key"), prefix=None, keeps_until=lambda _: None,
        now=lambda: NOON,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="not the key that this log knows"):
        await other.run(TENANT, ANA.contact)
    with pytest.raises(NotFoundError):
        await house.forgetting().preview(TENANT, "nobody-at-all")
    assert await Erasures(house.log).all() == []


class KilledError(BaseException):
    """The process was killed here."""


async def killed(house: House, who: str, at: tuple[type, str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget somebody, but die at the numbered call of a verb."""
    where, verb, call = at
    real, calls = getattr(where, verb), itertools.count(1)

    async def dies(*arguments: Any) -> Any:
        if next(calls) == call:
            raise KilledError
        return await real(*arguments)

    with contextlib.suppress(TransientError):
        await house.forgetting().run(TENANT, who)
    await house.apply()
    with monkeypatch.context() as patched:
        patched.setattr(where, verb, dies)
        with pytest.raises(KilledError):
            await house.forgetting().run(TENANT, who)


async def test_a_number_that_is_forgotten_already_is_written_nowhere(house: House) -> None:
    """Forgotten twice by the number: the second time says when it was, and the number is no contact's id."""
    await house.deliver(wrote(ANA, "m-1"))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    (first,) = await Erasures(house.log).all()
    house.clock += timedelta(seconds=1)
    again = await house.forgetting().run(TENANT, ANA.number)
    assert (again.contact_ids, again.erasure) == ((ANA.contact,), first)
    assert holding(await house.everything(), needles(ANA)) == []
    assert await Erasures(house.log).all() == [first]


@pytest.mark.parametrize("who", ["+351 900 000 001", "Ana Nobody", "ana@nowhere.pt"])
async def test_who_is_not_held_is_written_nowhere(house: House, who: str) -> None:
    """A number with a mistake in it, a name, an address: nothing is held, so nothing begins."""
    await house.deliver(wrote(ANA, "m-1"))
    before = await house.everything()
    with pytest.raises(NotFoundError):
        await house.forgetting().run(TENANT, who)
    assert await house.everything() == before


async def test_a_number_that_only_the_log_knows_is_its_contacts(house: House) -> None:
    """The tables show another number by now: the contact of the older one is found in the log, by its id."""
    await house.deliver(wrote(ANA, "m-1"))
    changed = {"id": ANA.contact, "name": ANA.mark, "number": "351900111222", "updatedAt": at(-1)}
    await house.deliver(body("contact.updated", -1, contact=changed))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    assert holding(await house.everything(), [*needles(ANA), b"351900111222"]) == []
    assert [one.contact_id for one in await Erasures(house.log).all()] == [ANA.contact]


async def test_killed_behind_the_tables_it_goes_on_by_the_number(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is in no table any more: its mark finds the erasure that is not finished, and that one is finished."""
    await house.deliver(wrote(ANA, "m-1"))
    house.clock += timedelta(seconds=1)
    await killed(house, ANA.number, (PersonSearch, "held", 1), monkeypatch)
    done = await house.forgetting().run(TENANT, ANA.number)
    assert done.contact_ids == (ANA.contact,)
    assert [one.finished_at is None for one in await Erasures(house.log).all()] == [False]
    assert holding(await house.everything(), needles(ANA)) == []


async def test_killed_between_two_contacts_of_a_person_it_goes_on_with_both(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One contact has lost its number, so nothing in the tables ties the other to it: the erasure itself does."""
    other = replace(ANA, contact="contact-of-ana-2", ticket="ticket-of-ana-2")
    await house.deliver(*(wrote(one, f"{one.ticket}-{n}") for one in (ANA, other) for n in range(120)))
    house.clock += timedelta(seconds=1)
    await killed(house, ANA.contact, (PersonalRows, "blank", 2), monkeypatch)
    done = await house.forgetting().run(TENANT, ANA.contact)
    assert done.contact_ids == (ANA.contact, other.contact)
    assert holding(await house.everything(), needles(ANA)) == []


@pytest.mark.parametrize("number", ["6", ANA.number])
async def test_what_is_parked_of_somebody_else_stays(house: House, number: str) -> None:
    """A picture that many have, a number that is a digit, and the digits of a longer number name nobody."""
    picture = {"profilePicUrl": "https://cdn.whatsms.pt/nopicture.png"}
    mine = {"id": ANA.contact, "name": ANA.mark, "number": number, **picture}
    theirs = {"id": RUI.contact, "name": RUI.mark, "number": f"{ANA.number}9", **picture}
    await house.deliver(body("contact.created", contact=mine), body("poll.voted", contact=theirs))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    assert [bool(row["raw"]) for row in (await house.everything())["parked_delivery"]] == [True]


async def test_what_is_parked_compressed_is_looked_into(house: House) -> None:
    """A body with gzip that names the person loses its bytes, another's keeps them; also at the door, later."""
    await house.deliver(wrote(ANA, "m-1"))
    await house.deliver(gzip.compress(wrote(ANA, "m-2", "x")), gzip.compress(wrote(RUI, "r-2", "x")))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    await house.deliver(gzip.compress(wrote(ANA, "m-3", "late")))
    left = sorted(gzip.decompress(row["raw"]) for row in (await house.everything())["parked_delivery"] if row["raw"])
    assert left == [wrote(RUI, "r-2", "x")]


async def test_what_may_be_theirs_and_stays_parked_is_told(house: House) -> None:
    """Whom a form names that is not read, nobody knows; and their name in somebody else's note ties it to nobody. So
    both stay, and their ids are in the result. So does what somebody else wrote, in the log and in the tables.
    """
    note = body("x.y", ticket={"id": RUI.ticket}, note=f"ligou {ANA.mark}")
    await house.deliver(wrote(ANA, "m-1"), gzip.compress(wrote(ANA, "m-2"))[:-9], gzip.compress(note))
    await house.deliver(wrote(RUI, "r-1", f"ligue {ANA.number}"), body("ticket.closed", ticket={"id": RUI.ticket}))
    house.clock += timedelta(seconds=1)
    with contextlib.suppress(TransientError):
        await house.forgetting().run(TENANT, ANA.contact)
    await house.apply()
    done = await house.forgetting().run(TENANT, ANA.contact)
    kept = {row["id"] for row in (await house.everything())["parked_delivery"] if row["raw"]}
    assert (len(kept), {*done.unread, *done.parked_left}) == (2, kept)
    assert len(done.unread) == len(done.parked_left) == 1
    assert done.left == (2,)
    assert done.rows_left == (f"ticket {RUI.ticket}", "message r-1", "message_revision r-1")


async def test_an_unknown_field_is_looked_into_however_it_is_written(house: House) -> None:
    """A card, a mention, the channel's own name of somebody, and JSON within a text go from another's events."""
    card = f"BEGIN:VCARD\nFN:{ANA.mark}\nTEL;waid={ANA.number}:+{ANA.number}\nEND:VCARD"
    own = {"key": {"participant": f"{ANA.number}@s.whatsapp.net"}, "pushName": ANA.mark}
    await house.deliver(
        wrote(ANA, "m-1"),
        wrote(RUI, "r-1", "x", vcard=card),
        wrote(RUI, "r-2", "x", mentions=[{"id": f"{ANA.number}@c.us", "pushName": ANA.mark}]),
        wrote(RUI, "r-3", "x", participant=f"{ANA.number}@s.whatsapp.net", dataJson=json.dumps(own)),
    )
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    rows = await house.everything()
    assert holding(rows, needles(ANA)) == []
    assert sum(row["body"] == f"{RUI.mark} x" for row in rows["message"]) == 3


async def test_a_campaign_keeps_whom_else_it_went_to(house: House) -> None:
    """Who got it stands in lists of its event, be it in the log or late: one goes, the other and the campaign stay."""
    people = [{"id": one.contact, "name": one.mark, "number": one.number} for one in (ANA, RUI)]
    lists = {"contacts": people, "failed": [ANA.number, RUI.number], "sent": {ANA.number: 3, RUI.number: 2}}
    campaign = {"id": 14, "name": "Verão", "status": "finished", "sentCount": 2, **lists}
    await house.deliver(wrote(ANA, "m-1"), body("campaign.finished", campaign=campaign))
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    await house.deliver(body("campaign.finished", seconds=-30, campaign=campaign))
    rows = await house.everything()
    assert holding(rows, needles(ANA)) == []
    left = {"contacts": people[1:], "failed": [RUI.number], "sent": {RUI.number: 2}}
    told = [json.loads(row["data"])["campaign"] for row in rows["event_log"] if row["type"] == "campaign.finished"]
    assert [one["extra"] for one in told] == [left, left]
    assert [(row["name"], row["sent_count"]) for row in rows["campaign"]] == [("Verão", 2)]


async def test_how_many_there_are_is_no_id(house: House) -> None:
    """Where ids are short, a count of somebody else's tickets or messages, or of those whom a campaign went
    to, stays, and so does a parked delivery of theirs.
    """
    ana = Someone(ANA.mark, ANA.number, "731", "12")
    told = json.loads(wrote(RUI, "r-1"))
    told["data"]["ticket"]["messages"], told["data"]["contact"]["tickets"] = 3, 12
    parked = body("x.y", ticket={"id": RUI.ticket, "messages": 3}, name=RUI.mark)
    campaign = {"id": 14, "name": "Verão", "status": "finished", "contacts": 731}
    bodies = [json.dumps(told).encode(), parked, body("campaign.finished", campaign=campaign)]
    await house.deliver(wrote(ana, "3"), *bodies)
    before = await house.everything()
    house.clock += timedelta(seconds=1)
    await house.forget("731")
    rows = await house.everything()
    assert unlike(before, rows, RUI) == []
    assert holding(rows, [b'"contacts":731']) == holding(before, [b'"contacts":731'])


async def test_nobody_replays_or_blanks_meanwhile(house: House) -> None:
    """Where a replay works, nothing is blanked: its swap would bring back what it had read. And the reverse."""
    await house.deliver(wrote(ANA, "m-1"))
    for role in (ROLE, BLANKING):
        other = RoleLock(house.log, role)
        assert await other.take()
        with pytest.raises(TransientError, match="replays the log just now"):
            await house.forgetting().run(TENANT, ANA.contact)
        await other.release()
    assert await Erasures(house.log).all() == []
    forgetting = house.forgetting()
    async with forgetting.alone:
        with contextlib.suppress(TransientError):
            await forgetting.run(TENANT, ANA.contact)
        assert not await RoleLock(house.log, ROLE).take()


async def test_tables_of_an_older_copy_forget_too(tmp_path: Path) -> None:
    """Restored alone, they show nobody who was forgotten since, and are those that a rebuild makes."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", tmp_path) as house:
        await filled(house)
        assert await scrub(house.projection)
        shutil.copy(tmp_path / "projection.db", tmp_path / "copy.db")
        await house.deliver(wrote(RUI, "r-9", "depois"))
        house.clock += timedelta(seconds=1)
        await house.forget(ANA.contact)
        old = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'copy.db'}"), migrate=True)
        restored = House(house.log, old, tmp_path)
        assert holding(await restored.everything(), needles(ANA)) != []
        await restored.apply()
        assert holding(await restored.everything(), needles(ANA)) == []
        assert await shown(restored) == await shown(house)
        await old.close()


async def test_a_key_is_shown_behind_marks_that_are_being_written(house: House) -> None:
    """Who adds to the table waits for the others who add: who holds the marks reads on from the highest number."""
    marks = SuppressionTable(house.log)
    mark = KeptMark(TENANT, b"0123456789abcdef", 1, Marker(KEY).check)
    async with house.log.write() as connection:
        await add_marks(connection, [mark])
        showing = asyncio.create_task(marks.add([key_row(Marker(KEY))]))
        done, _ = await asyncio.wait({showing}, timeout=0.2)
        assert not done
    await showing
    assert await marks.all() == [mark, key_row(Marker(KEY))]
