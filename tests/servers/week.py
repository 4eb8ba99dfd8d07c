"""A week at a twin's account, sent over HTTP on bad days; and what then differs from what is held, by plain comparison.

Nothing here asks `domain/drift.py`: entities of the account and rows of the projection are compared name by name.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from servers.reconciling import SLUG, House
from whatsms_events.domain import bodies
from whatsms_events.domain.events import to_micros
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import Dialect, write
from whatsms_events.twin.entities import Campaign, Contact, Message, Ticket
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World
from whatsms_events.web.app import Listener
from whatsms_events.web.receiver import Receiver, Tenant

SECRET: Final = b"whsec-tests-only-week"
WEEK: Final = timedelta(days=7)
SILENCE: Final = (0.43, 0.48)
"""Shares of the time between which nothing at all is sent: the line to us is down."""

STEP: Final = 0.04
"""Share of the time that passes at once at most: less than the silence takes."""

AFTER: Final = timedelta(days=1)
"""From the last event of life to the reconcile: what is sent late has been sent, and no version is as new as a page."""

BAD_DAYS: Final = Faults(drop=0.12, redeliver=0.1, reorder=0.15, reorder_window=30, delay=0.1, delay_s=0.3)

Name = tuple[str, str]
"""Entity and id."""

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of one table by id."""


@asynccontextmanager
async def door(here: House) -> AsyncIterator[str]:
    """Open the real receiver on the house's log and clock; its URL."""
    receiver = Receiver(
        {SLUG: Tenant(SLUG, here.tenant, {"current": SECRET})},
        here.committer,
        body_limit_bytes=1 << 20,
        in_flight_limit_bytes=1 << 26,
        deadline_s=60,
        now=here.now,
    )
    listener = Listener(receiver.handle)
    url = await listener.start("127.0.0.1", 0)
    try:
        yield f"{url}/webhooks/{SLUG}"
    finally:
        await listener.stop(1)


async def live_a_week(
    world: World, url: str, *, seed: int, real_s: float, secret: bytes = SECRET, length: timedelta = WEEK
) -> Ledger:
    """Let people live for a week that takes `real_s`, their webhooks sent with faults; then life stands still."""
    sender = Sender(url, secret, Ledger(), faults=replace(BAD_DAYS, seed=seed), connections=16, tries=50)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    began, start, lived = loop.time(), world.now, 0.0

    def clock() -> datetime:
        nonlocal lived
        # In small steps: a machine under load must not leap over the silence.
        lived = min((loop.time() - began) / real_s, lived + STEP)
        silent = SILENCE[0] <= lived < SILENCE[1]
        sender.faults = replace(sender.faults, drop=1.0 if silent else BAD_DAYS.drop)
        if lived < 1:
            return start + length * lived
        world.pause()
        stop.set()
        return start + length + AFTER

    return await sender.run(world, stop, clock=clock)


async def live_on(world: World, url: str, stop: asyncio.Event, *, seed: int) -> Ledger:
    """Send what the world says while somebody else moves its clock, with faults; what is unsaid at `stop` is lost."""
    sender = Sender(url, SECRET, Ledger(), faults=replace(BAD_DAYS, seed=seed), connections=16, tries=50)
    return await sender.run(world, stop, clock=lambda: world.now)


# What is held.


async def rows_of(database: Database, name: str) -> dict[str, dict[str, Any]]:
    """Return the rows of an entity's table by id."""
    async with database.read() as connection:
        rows = (await connection.execute(getattr(tables, name).select())).mappings().all()
    return {row["id"]: dict(row) for row in rows}


async def wordings_of(database: Database) -> dict[str, list[str]]:
    """Return every body that each message had."""
    found: dict[str, list[str]] = defaultdict(list)
    table = tables.message_revision
    async with database.read() as connection:
        for row in (await connection.execute(table.select())).mappings():
            if body := json.loads(row["content"]).get("body"):
                found[row["message_id"]].append(body)
    return found


async def held_by(database: Database) -> dict[str, Any]:
    """Return all that is compared here."""
    names = ("contact", "ticket", "campaign", "message")
    return {name: await rows_of(database, name) for name in names} | {"wordings": await wordings_of(database)}


# What differs.


QUIET: Final = frozenset({"created_at", "updated_at", "media_url", "last_message(told)"})
"""Columns whose difference no webhook need have told of; and one that nobody told, shown as empty or as a name only."""

EITHER: Final = frozenset({"profile_pic_url(none)", "last_message(media)"})
"""Columns of which it is so or not: was no picture ever told, or that there is none; and what is shown for media?"""


def differing(account: Account, held: Mapping[str, Any], *, messages: bool) -> dict[Name, str]:
    """Return by entity and id what a report has to name, and why: missed, extra, doubtful, or the differing columns."""
    last_words, media, as_shown = _last_words(held), _media_last(held), account.dialect
    told: dict[str, dict[str, Callable[[Mapping[str, Any]], Iterator[str]]]] = {
        "contact": {str(one.id): _of_contact(one, as_shown) for one in account.contacts.values()},
        "ticket": {
            str(one.id): _of_ticket(one, last_words[str(one.id)], as_shown, media=str(one.id) in media)
            for one in account.tickets.values()
        },
        "campaign": {str(one.id): _of_campaign(one, as_shown) for one in account.campaigns.values()},
    }
    if messages:  # those of campaigns are in no ticket, so in no list
        listed = [one for ticket in account.tickets.values() for one in ticket.messages]
        told["message"] = {str(one.id): _of_message(one, as_shown) for one in listed}
    found: dict[Name, str] = {}
    for entity, wanted in told.items():
        rows: Rows = held[entity]
        for one, columns in wanted.items():
            row = rows.get(one)
            if row is None or not row["known"]:
                found[entity, one] = "missed"
            elif different := " ".join(columns(row)):
                found[entity, one] = different
            elif row["doubtful"]:
                found[entity, one] = "doubtful"
        if entity != "message":
            gone = {one for one, row in rows.items() if one not in wanted and not row["gone"]}
            found |= dict.fromkeys(((entity, one) for one in gone), "extra")
    return found


def is_quiet(why: str) -> bool | None:
    """Tell whether no webhook need have told of any of these columns; None where nobody can tell."""
    loud = {one for one in why.split() if one not in QUIET and not one.endswith("(empty)")}
    return None if loud and loud <= EITHER else not loud


def _differ(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """List the columns that differ; nothing that is held where something empty is shown is named as that."""
    for name, value in wanted.items():
        if (row[name] or None) != (value or None):
            yield name
        elif row[name] is None and value is not None:
            yield f"{name}(empty)"


def _as_shown(dialect: Dialect, moment: datetime) -> int:
    """Return a time as the vendor writes it, as the projection stores it."""
    return to_micros(datetime.fromisoformat(dialect.time(moment)))


def _of_contact(one: Contact, dialect: Dialect) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    def columns(row: Mapping[str, Any]) -> Iterator[str]:
        wanted: dict[str, Any] = {"name": one.name, "number": one.number, "email": one.email}
        wanted["is_group"] = one.is_group
        wanted["created_at"] = _as_shown(dialect, one.created_at)
        yield from _differ(row, wanted | ({"gone": False} if row["gone"] else {}))
        if row["profile_pic_url"] != one.profile_pic_url:
            yield "profile_pic_url" if row["profile_pic_url"] else "profile_pic_url(none)"
        if json.loads(row["extra_info"] or "[]") != one.extra_info:
            yield "extra_info"
        elif row["extra_info"] is None:
            yield "extra_info(empty)"

    return columns


def _of_ticket(
    one: Ticket, words: list[str], dialect: Dialect, *, media: bool
) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    def columns(row: Mapping[str, Any]) -> Iterator[str]:
        wanted: dict[str, Any] = {"status": one.status, "channel": one.channel, "contact_id": str(one.contact.id)}
        wanted["created_at"] = _as_shown(dialect, one.created_at)
        if dialect.updated_at:
            wanted["updated_at"] = _as_shown(dialect, one.updated_at)
        if one.ai_agent_id is not None:  # else the vendor shows nothing
            wanted["ai_agent_id"] = str(one.ai_agent_id)
        yield from _differ(row, wanted | ({"gone": False} if row["gone"] else {}))
        for name, who in (("user", one.user), ("queue", one.queue)):
            if row[f"{name}_id"] != (who and str(who.id)):
                yield name
            elif who is not None and row[f"{name}_name"] != who.name:  # some webhooks tell no name
                yield f"{name}_name" if row[f"{name}_name"] else f"{name}_name(empty)"
        last = bodies.decode(write({"last": one.last_message}))["last"]  # half an emoji is read as U+FFFD
        if row["last_message"] != last:
            told = not last or _is_told(one.last_message, words)
            yield "last_message(told)" if told else "last_message(media)" if media else "last_message"

    return columns


def _is_told(last: str, words: list[str]) -> bool:
    """Tell whether a ticket's last message, which is cut at 255 UTF-16 units, is one of these, or a part of one.

    A part of 20 units or more is taken for a preview, also of a message that was edited since. The account keeps half
    an emoji at the cut as half a surrogate pair; what was read of it has U+FFFD there.
    """
    cut = len(last.encode("utf-16-le", "surrogatepass")) >= 2 * 20
    start = last.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore").removesuffix("\ufffd")
    return any(last == word or (cut and start in word) for word in words)


def _last_words(held: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by ticket what its messages said, in every wording."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in held["message"].values():
        if row["ticket_id"] is not None and row["body"] is not None:
            found[row["ticket_id"]] += [row["body"], *held["wordings"].get(row["id"], ())]
    return found


def _media_last(held: Mapping[str, Any]) -> set[str]:
    """Return the tickets whose last message that is held is media, of which a list may show anything short."""
    last: dict[str, Mapping[str, Any]] = {}
    for row in held["message"].values():
        before = last.get(row["ticket_id"])
        if row["ticket_id"] and (before is None or (row["created_at"] or 0) >= (before["created_at"] or 0)):
            last[row["ticket_id"]] = row
    return {one for one, row in last.items() if row["media_type"] or row["deleted"] or not row["body"]}


def _of_campaign(one: Campaign, dialect: Dialect) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    columns = {
        "name": one.name,
        "status": one.status,
        "sent_count": one.sent_count,
        "failed_count": one.failed_count,
        "created_at": _as_shown(dialect, one.created_at),
        "scheduled_at": one.scheduled_at and _as_shown(dialect, one.scheduled_at),
    }
    return lambda row: _differ(row, columns | ({"gone": False} if row["gone"] else {}))


def _of_message(one: Message, dialect: Dialect) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    def columns(row: Mapping[str, Any]) -> Iterator[str]:
        wanted: dict[str, Any] = {"body": one.body, "from_me": one.from_me, "media_type": one.media_type}
        wanted |= {"media_url": one.media_url, "created_at": _as_shown(dialect, one.created_at)}
        wanted |= {"gone": False} if row["gone"] else {}
        wanted |= {"deleted": True} if one.deleted or row["deleted"] else {}  # the vendor shows it where it is set
        quoted = None if one.quoted is None else str(one.quoted)
        yield from _differ(row, wanted | {"quoted_message_id": quoted})
        if row["ticket_id"] != str(one.ticket and one.ticket.id):
            yield "ticket_id"
        # An ack of 0 says nothing in a list, and what was lower before is no news.
        if one.from_me and one.ack > (row["ack"] or 0):
            yield "ack"

    return columns


def acks_differing(account: Account, held: Mapping[str, Any]) -> dict[str, tuple[int | None, int]]:
    """Return of each message of ours in a ticket the ack that is held and the vendor's, where they are not the same."""
    listed = [one for ticket in account.tickets.values() for one in ticket.messages if one.from_me and one.ack > 0]
    rows: Rows = held["message"]
    return {str(one.id): (rows[str(one.id)]["ack"], one.ack) for one in listed if rows[str(one.id)]["ack"] != one.ack}


def week_ago(now: datetime | None = None) -> datetime:
    """Return when a week and its aftermath have to begin that end now."""
    return (now or datetime.now(UTC)) - WEEK - AFTER
