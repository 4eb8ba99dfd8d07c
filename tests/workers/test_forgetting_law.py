"""A law over real databases: nothing that happens, in whatever order, undoes that somebody was forgotten.

Each example is a list of steps: what the vendor tells of two people and when it is delivered, what the operator does,
and where the process that does it is killed. Each value has the second in it at which its person did something. So of
the person who was forgotten no value may be found that is older than that moment. The other person's rows are compared
with those of a world in which the same deliveries came and nobody was ever forgotten.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from servers.compare import LONG
from servers.process import run_apart
from whatsms_events.domain.events import Contact
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import NotFoundError, TransientError
from whatsms_events.storage import tables
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.erasure import Erasures
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Selected
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.shadow import open_shadow, remove_shadow, shadow_of
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.late_ties import LateForgetting
from whatsms_events.workers.older_tables import OlderTables
from whatsms_events.workers.replay import ROLE, ProjectionReplay
from whatsms_events.workers.sources import LogSource
from workers.test_forgetting import KEY, NOON, TENANT, House, append_observation, at, body

Who = Literal["Ana", "Rui"]
Step = tuple[Any, ...]

NUMBERS: Final = {"Ana": "351910000731", "Rui": "351920000842"}
MARK: Final = re.compile(rb"(ana|rui)(\d{7})z", re.IGNORECASE)
STEP_S: Final = 10
LATE: Final = ("same", "written anew", "stamped anew")


class KilledError(BaseException):
    """The process was killed here."""


@contextmanager
def dying(statements: int) -> Iterator[None]:
    """Let the process die before the numbered statement or commit, on whichever database; it may end before that."""
    left = [statements]

    def count(*_facts: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    for name in ("before_cursor_execute", "commit"):
        event.listen(Engine, name, count)
    try:
        yield
    except (KilledError, BaseExceptionGroup):  # a group where another task of the process was cut off by it
        if left[0] > 0:
            raise
    finally:
        for name in ("before_cursor_execute", "commit"):
            event.remove(Engine, name, count)


@dataclass(slots=True)
class Fact:
    """One thing that the vendor tells, and when it happened; `by` is whose values it has. `shows` is a quoted one."""

    by: Who
    kind: str
    seconds: int
    body: bytes
    shows: "Fact | None" = None
    delivered: list[int] = field(default_factory=list)

    def written(self, how: str, now: int) -> bytes:
        """Return the body as a retry may have it. One that tells no other time is never stamped anew."""
        value = json.loads(self.body)
        if how == "stamped anew" and self.kind != "unknown":
            return json.dumps({**value, "timestamp": at(now)}).encode()
        return json.dumps(value, indent=1).encode() if how == "written anew" else self.body


def mark(who: Who, seconds: int) -> str:
    """Return a value of somebody, which has the second in it at which it became theirs."""
    return f"{who}{seconds:07d}z"


def contact_of(who: Who, seconds: int) -> dict[str, Any]:
    """Return somebody's contact as the vendor has it since then."""
    name = mark(who, seconds)
    return {"id": f"contact-{who}", "name": name, "number": NUMBERS[who], "email": f"{name}@x.pt", "n": name}


def message_of(who: Who, seconds: int, **more: Any) -> dict[str, Any]:
    """Return a message of somebody, or to them."""
    return {"id": f"m-{who}-{seconds}", "body": mark(who, seconds), "createdAt": at(seconds), **more}


def ticket_of(who: Who, seconds: int) -> dict[str, Any]:
    """Return somebody's only ticket, with a last message of then."""
    contact, last = contact_of(who, seconds), mark(who, seconds)
    return {"id": f"ticket-{who}", "status": "open", "createdAt": at(1), "lastMessage": last, "contact": contact}


def group_of(last: str | None) -> dict[str, Any]:
    """Return the ticket of the group, with a last message."""
    group = {"id": "contact-group", "name": "Condomínio", "number": "120363041234567890@g.us", "isGroup": True}
    return {"id": "ticket-group", "status": "open", "contact": group} | ({} if last is None else {"lastMessage": last})


def told(who: Who, kind: str, seconds: int, shows: Fact | None) -> tuple[str, dict[str, Any]]:
    """Return event and data of a fact."""
    message = message_of(who, seconds, fromMe=False)
    in_group = {**message, "contactId": f"contact-{who}"}
    contact, ticket = contact_of(who, seconds), ticket_of(who, seconds)
    told: tuple[str, dict[str, Any]] = "x.unknown", {"contact": contact}
    match kind:
        case "writes":
            told = "message.received", {"message": message, "ticket": ticket, "contact": contact}
        case "is written to":
            told = "message.sent", {"message": {**message, "fromMe": True}, "ticket": {"id": ticket["id"]}}
        case "writes in the group":
            told = "message.received", {"message": in_group, "ticket": group_of(mark(who, seconds))}
        case "quotes" if shows is not None:
            quoted = {"id": f"m-{shows.by}-{shows.seconds}", "body": mark(shows.by, shows.seconds)}
            author = contact_of(shows.by, shows.seconds)
            message = {**in_group, "quotedMsg": {**quoted, "contact": author}}
            told = "message.received", {"message": message, "ticket": group_of(None)}
        case "is previewed" if shows is not None:
            told = "ticket.updated", {"ticket": group_of(mark(shows.by, shows.seconds))}
        case "changes":
            told = "contact.updated", {"contact": {**contact, "updatedAt": at(seconds)}}
        case "is closed":
            told = "ticket.closed", {"ticket": {**ticket, "status": "closed"}}
    return told


KINDS: Final = (
    "writes", "is written to", "writes in the group", "quotes", "is previewed", "changes", "is closed", "unknown"
)  # fmt: skip


@dataclass(slots=True)
class Town:
    """What the vendor tells, what a service did with it, and the databases of that service."""

    url: str
    folder: Path
    house: House | None = None
    now: int = STEP_S
    facts: list[Fact] = field(default_factory=list)
    sent: list[tuple[int, bytes | Fact]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    older: bool = False  # the tables are a restored copy, which no consumer has met yet

    @property
    def on_sqlite(self) -> bool:
        """Tell whether the databases are files."""
        return self.url.startswith("sqlite")

    @property
    def target(self) -> DatabaseTarget:
        """Where the projection is."""
        return DatabaseTarget(self.url.replace("log.db", "projection.db"))

    @property
    def open(self) -> House:
        """The databases as the process has them open that works now."""
        assert self.house is not None
        self.house.clock = NOON + timedelta(seconds=self.now)
        return self.house

    async def start(self) -> None:
        """Open the databases, as another process."""
        log = await open_log(DatabaseTarget(self.url), migrate=True)
        self.house = House(log, await open_projection(self.target, migrate=True), self.folder)

    async def end(self) -> None:
        """Close the databases, as they were left."""
        house, self.house = self.open, None
        await house.projection.close()
        await house.log.close()

    async def do(self, step: Step) -> None:
        """Do one step, and let time pass."""
        self.now += STEP_S
        match step:
            case ("told", who, kind, number, delivered):
                await self.told(who, kind, number, delivered=delivered)
            case ("late", number, how):
                await self.late((self.facts[number % len(self.facts)], how))
            case ("observed", who):
                await self.observed(who)
            case ("killed", statements, inner):
                with dying(statements):
                    await self.do(inner)
                await self.end()
                await self.start()
            case ("forget", who):
                await self.forget(who)
            case ("follow",):
                await self.follow()
            case ("apply",):
                await self.apply()
            case ("rebuild",):
                await self.rebuild()
            case ("copy",):
                await self.copy()
            case ("restore",):
                await self.restore()

    async def told(self, who: Who, kind: str, number: int, *, delivered: bool) -> None:
        """Let something happen; it may be delivered only later."""
        shown = [one for one in self.facts if one.kind == "writes in the group" and self.is_held(one)]
        shows = shown[number % len(shown)] if shown and kind in ("quotes", "is previewed") else None
        if shows is None and kind in ("quotes", "is previewed"):
            kind = "writes in the group"
        name, data = told(who, kind, self.now, shows)
        whole = body(name, self.now, **data)
        by = shows.by if shows is not None and kind == "is previewed" else who
        self.facts.append(Fact(by, kind, self.now, whole, shows))
        if delivered:
            await self.late((self.facts[-1], "same"))

    def is_held(self, fact: Fact) -> bool:
        """Tell whether the log has had it in full: then it is known whose it is, also when they are forgotten."""
        return any(not [1 for gone in self.forgotten if fact.seconds <= gone < one] for one in fact.delivered)

    async def late(self, *facts: tuple[Fact, str]) -> None:
        """Deliver something, perhaps again."""
        bodies = [one.written(how, self.now) for one, how in facts]
        for one, _ in facts:
            one.delivered.append(self.now)
        self.sent += [(self.now, one) for one in bodies]
        await self.open.take_in(*bodies)

    async def observed(self, who: Who) -> None:
        """Let a backfill see somebody's contact as it is by now, and append that."""
        changed = [one for one in self.facts if one.by == who and one.kind in ("changes", "writes")][-1]
        if changed not in [one for _, one in self.sent]:  # else nothing differs, and nothing is appended
            self.sent.append((self.now, changed))
            await append_observation(self.open, seen(changed), self.open.clock)

    async def apply(self) -> None:
        """Let a consumer apply all that there is, in small batches."""
        house = self.open
        older = OlderTables(house.log, house.projection, Marker(KEY), now=lambda: house.clock)
        source, lock = LogSource(EventLog(house.log)), RoleLock(house.log, "consumer")
        consumer = Consumer(Projection(house.projection), source, lock, batch_limit=3, older=older)
        try:
            while await consumer.run_once():
                pass
        finally:
            await consumer.close()
        self.older = False

    async def forget(self, who: str) -> bool:
        """Let the command try once; tell whether it came to its end."""
        await self.check()
        try:
            await self.open.forgetting().run(TENANT, who)
        except (TransientError, NotFoundError):  # the projection is behind; or nothing is held of her
            return False
        finally:
            moments = [one.forgotten_at for one in await Erasures(self.open.log).all()]
            self.forgotten = [round((one - NOON).total_seconds()) for one in moments]
        return True

    async def follow(self) -> None:
        """Let the service look once for what turned out to be hers."""
        house = self.open
        with contextlib.suppress(TransientError):  # the projection is behind
            await LateForgetting(
                house.log, house.projection, Marker(KEY), house.forgetting(), monotonic=lambda: 0.0
            ).run_once()

    async def rebuild(self) -> None:
        """Read the whole log once more, with today's code, into tables that take the place of the others."""
        house, target = self.open, shadow_of(self.target)
        await remove_shadow(house.projection, target)
        shadow = await open_shadow(house.projection, target)
        log, lock = EventLog(house.log), RoleLock(house.log, ROLE)
        replay = ProjectionReplay(
            log, Selected(house.log), house.projection, shadow, lock, batch_limit=500, swap=True, texts=(),
            now=lambda: house.clock,
        )  # fmt: skip
        try:
            await replay.finish(examples=0)
            self.older = False
        finally:
            await replay.close()
            await shadow.close()
            await remove_shadow(house.projection, target)

    async def copy(self) -> None:
        """Make a backup of the tables."""
        if self.on_sqlite:
            assert await scrub(self.open.projection)
            shutil.copy(self.folder / "projection.db", self.folder / "backup.of.tables")

    async def restore(self) -> None:
        """Put the backup of the tables in their place."""
        if self.on_sqlite and (self.folder / "backup.of.tables").exists():
            await self.end()
            for one in self.folder.glob("projection.db-*"):
                one.unlink()
            shutil.copy(self.folder / "backup.of.tables", self.folder / "projection.db")
            await self.start()
            self.older = True

    async def check(self) -> None:
        """See that nothing is held of what she was before she was forgotten, once that is finished."""
        found = await Erasures(self.open.log).all()
        if self.older or not found or [1 for one in found if one.finished_at is None]:
            return
        assert old_marks(dump(await self.open.everything()), self.forgotten[-1]) == []
        if not [1 for one in self.facts if one.by == "Ana" and one.seconds > self.forgotten[-1] and one.delivered]:
            assert NUMBERS["Ana"].encode() not in dump(await self.open.everything())


def seen(fact: Fact) -> Contact:
    """Return the contact as a backfill sees it after this fact."""
    told_of = json.loads(fact.body)["data"]["contact"]
    changed_at = NOON + timedelta(seconds=fact.seconds)
    return Contact(
        id=told_of["id"], name=told_of["name"], number=told_of["number"], email=told_of["email"],
        updated_at=changed_at, extra={"n": told_of["n"]},
    )  # fmt: skip


def dump(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Return everything that rows hold."""
    values = (one for some in rows.values() for row in some for one in row.values())
    return b"\0".join(one if isinstance(one, bytes) else str(one).encode() for one in values)


def old_marks(held: bytes, seconds: int) -> list[bytes]:
    """Return the values of the person who was forgotten that are not newer than this."""
    found = MARK.finditer(held)
    return [one[0] for one in found if one[1].lower() == b"ana" and int(one[2]) <= seconds]


def others(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows that tell of the other person, and of the group, with ids in the place of positions."""
    ids = {row["position"]: str(row["id"]) for row in rows["event_log"]}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for table in TABLES:
        for row in rows[table]:
            kept = {name: one for name, one in row.items() if name not in ("position", "versions")}
            if "versions" in row:
                versions = json.loads(row["versions"])
                kept["versions"] = {name: with_ids(one, ids) for name, one in versions.items()}
            if row["id" if "id" in row else "message_id"] == "ticket-group":
                del kept["last_message"], kept["doubtful"]
                kept["versions"].pop("last_message", None)
            found[table, str(row.get("digest", row.get("id")))] = kept
    return {key: row for key, row in found.items() if is_others(row)}


def with_ids(version: Sequence[Any], ids: Mapping[int, str]) -> list[Any]:
    """Return what a register remembers of who wrote it, with ids in the place of positions: see `Version`."""
    time, rank, position, *more = version
    if len(more) > 1:
        own = more[1][2]
        own = own and [one if number == 1 or one is None else ids[one] for number, one in enumerate(own)]
        more = [more[0], [*more[1][:2], own, *more[1][3:]]]
    return [time, rank, ids[position], *more]


TABLES: Final = ("event_log", "parked_delivery", "contact", "ticket", "message", "message_revision")


def is_others(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is about the other person, or about the group itself."""
    about = {str(row.get(name)) for name in ("id", "contact_id", "ticket_id", "message_id", "subject")}
    if any(one.startswith("m-Ana") or one.endswith("-Ana") for one in about):
        return False
    return (
        any(one.startswith("m-Rui") or one.endswith(("-Rui", "-group")) for one in about)
        or b"rui" in dump({"": [row]}).lower()
    )


def without_hers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the log without its bytes, what it quotes, and the last message that the group's ticket shows."""
    data = json.loads(row["data"])
    unknown = data.get("message", {}).pop("extra", {})
    data["unknown"] = {name: one for name, one in unknown.items() if name != "quotedMsg"}
    data.get("ticket", {}).pop("last_message", None)
    return {**row, "data": data, "raw": None}


FACT: Final = st.tuples(
    st.just("told"), st.sampled_from(["Ana", "Ana", "Rui"]), st.sampled_from(KINDS), st.integers(0, 9), st.booleans()
)
WORK: Final = st.sampled_from(
    [
        ("apply",),
        ("forget", "contact-Ana"),
        ("forget", "contact-Ana"),
        ("forget", NUMBERS["Ana"]),
        ("rebuild",),
        ("follow",),
    ]
)
STEPS: Final = st.lists(
    st.one_of(
        FACT,
        FACT,
        st.tuples(st.just("late"), st.integers(0, 9), st.sampled_from(LATE)),
        st.tuples(st.just("observed"), st.sampled_from(["Ana", "Rui"])),
        WORK,
        st.tuples(st.just("killed"), st.integers(1, 90), WORK),
        st.sampled_from([("copy",), ("restore",)]),
    ),
    min_size=4,
    max_size=12,
)
LEARNT_LATE: Final[list[Step]] = [
    ("told", "Ana", "is written to", 0, True), ("forget", NUMBERS["Ana"]), ("late", 2, "written anew"),
]  # fmt: skip
"""What names a ticket alone comes between her forgetting and the tables that tell whose the ticket is."""

QUOTED: Final[list[Step]] = [
    ("told", "Ana", "writes in the group", 0, True), ("killed", 20, ("apply",)), ("forget", "contact-Ana"),
    ("killed", 40, ("forget", "contact-Ana")), ("told", "Rui", "quotes", 0, True), ("killed", 30, ("rebuild",)),
]  # fmt: skip
"""Somebody else quotes her, before it is finished that she is forgotten."""

BEGIN: Final[Sequence[Step]] = [("told", who, "writes", 0, True) for who in ("Ana", "Rui")]


async def lived(town: Town, steps: Sequence[Step]) -> None:
    """Do every step; then let everything come once more, before and after she is forgotten for the last time."""
    for step in [*BEGIN, *steps]:
        await town.do(step)
    await town.apply()
    await finished(town)
    await everything_comes_again(town)
    assert_new_is_kept(town, await town.open.everything())
    town.now += STEP_S
    await town.forget("contact-Ana")
    await finished(town)
    town.now += STEP_S
    await everything_comes_again(town)
    if town.on_sqlite:  # it takes seconds on a server
        await town.rebuild()
        await town.check()


async def finished(town: Town) -> None:
    """Let an erasure that was begun come to its end."""
    for _ in range(3):
        await town.apply()
        if not [1 for one in await Erasures(town.open.log).all() if one.finished_at is None]:
            return
        await town.forget("contact-Ana")
    raise AssertionError("it comes to no end")


async def everything_comes_again(town: Town) -> None:
    """Let every delivery of hers come again, or for the first time."""
    hers = [one for one in town.facts if one.by == "Ana" or one.shows is not None]
    await town.late(*((one, LATE[one.seconds // STEP_S % len(LATE)]) for one in hers))
    await town.apply()
    await town.check()


def assert_new_is_kept(town: Town, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Check that what she wrote since she was forgotten is there."""
    bodies = {row["id"]: row["body"] for row in rows["message"]}
    for one in town.facts:
        is_new = one.delivered and one.seconds > max(town.forgotten, default=0)
        if is_new and one.kind in ("writes", "writes in the group"):
            assert bodies[f"m-{one.by}-{one.seconds}"] == mark(one.by, one.seconds)


async def in_another_world(sent: Sequence[tuple[int, bytes | Fact]], town: Town) -> dict[tuple[str, str], Any]:
    """Return the rows of others where the same came, nobody was forgotten, and nothing was killed."""
    await town.start()
    try:
        for observed, some in groupby(sent, lambda one: isinstance(one[1], Fact)):
            deliveries = []
            for town.now, one in some:
                if isinstance(one, Fact):
                    await append_observation(town.open, seen(one), town.open.clock)
                else:
                    deliveries.append(town.open.signed(one))
            if not observed:
                await town.open.receive(deliveries)
        await town.apply()
        return others(await town.open.everything())
    finally:
        await town.end()


async def obeyed(town: Town, other: Town, steps: Sequence[Step]) -> None:
    """Check the law for these steps."""
    await town.start()
    try:
        await lived(town, steps)
        ours = others(await town.open.everything())
        if town.on_sqlite:
            assert await scrub(town.open.log, rewrite=True)
            assert await scrub(town.open.projection, rewrite=True)
    finally:
        await town.end()
    files = b"".join(one.read_bytes() for one in town.folder.iterdir() if ".db" in one.name)
    assert old_marks(files, town.forgotten[-1]) == []
    theirs = await in_another_world(town.sent, other)
    assert ours.keys() == theirs.keys()
    for key, row in theirs.items():
        if key[0] == "event_log" and ours[key]["raw"] is None:
            assert b"Ana" in row["raw"]
            assert without_hers(ours[key]) == without_hers(row)
        else:
            assert ours[key] == row


@contextmanager
def copied(source: Path, to: Path) -> Iterator[str]:
    """Give empty databases in a folder, which are copies of those that were made once."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    yield f"sqlite:///{to / 'log.db'}"


async def made(url: str, folder: Path) -> None:
    """Make both databases."""
    town = Town(url, folder)
    await town.start()
    await town.end()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with two empty databases."""
    folder = tmp_path_factory.mktemp("template")
    run_apart(made(f"sqlite:///{folder / 'log.db'}", folder))
    return folder


async def emptied(url: str) -> None:
    """Empty every table but the one that says which log it is."""
    every = (*tables.log_metadata.sorted_tables, *tables.projection_metadata.sorted_tables)
    names = ", ".join(one.name for one in every if one is not tables.log)
    connection = await asyncpg.connect(url)
    await connection.execute(f"TRUNCATE {names} RESTART IDENTITY")
    await connection.close()


def holds(place: Callable[[], AbstractContextManager[str]], template: Path, folder: Path, examples: int) -> None:
    """Check the law on databases of one kind; `place` gives empty ones."""

    @settings(max_examples=examples, phases=set(Phase) - {Phase.explain})
    @example(LEARNT_LATE)
    @example(QUOTED)
    @given(STEPS)
    def law(steps: list[Step]) -> None:
        with place() as url, copied(template, folder / "theirs") as other:
            run_apart(obeyed(Town(url, folder / "ours"), Town(other, folder / "theirs"), steps))

    law()


@pytest.mark.slow
def test_on_files_no_interleaving_undoes_that_somebody_was_forgotten(template: Path, tmp_path: Path) -> None:
    """Deliveries, late ones, observations, rebuilds, restored tables, kills at any statement, forgets: in any order."""
    holds(lambda: copied(template, tmp_path / "ours"), template, tmp_path, 1000 if LONG else 5)


@pytest.mark.postgres
def test_on_a_server_no_interleaving_undoes_that_somebody_was_forgotten(
    template: Path, tmp_path: Path, postgres_url: str
) -> None:
    """The same on PostgreSQL, where the tables are never an older copy than the log."""
    (tmp_path / "ours").mkdir()
    run_apart(made(postgres_url, tmp_path))

    @contextmanager
    def on_a_server() -> Iterator[str]:
        run_apart(emptied(postgres_url))
        yield postgres_url

    holds(on_a_server, template, tmp_path, 200 if LONG else 1)
