"""Log entries and current rows in, changed rows out: tickets, messages with their revisions, contacts, campaigns.

An event is taken apart into claims about rows; `rows.merge` says what each claim does. Neither needs the order of
arrival, so the same events in any order give the same rows, but for fields marked doubtful.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import acks
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Event,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Text,
    Ticket,
    TicketPayload,
    to_micros,
)
from whatsms_events.domain.rows import BELOW, OBSERVATION, OWN, SNAPSHOT, Claim, Key, Row, Table, Value, merge
from whatsms_events.errors import InvalidEventError

OBSERVED: Final = (
    *(EventType.MESSAGE_OBSERVED, EventType.TICKET_OBSERVED),
    *(EventType.CONTACT_OBSERVED, EventType.CAMPAIGN_OBSERVED),
)

SKEW: Final = 5 * 60 * 1_000_000
"""How far ahead of our clock a version time may be: a vendor's clock gone wrong must not win for years."""

_FIELDS: Final[Mapping[Table, tuple[str, ...]]] = {
    "ticket": ("status", "channel", "ai_agent_id", "last_message", "created_at", "updated_at", "gone"),
    "message": (
        *("body", "from_me", "media_type", "media_url", "deleted", "quoted_message_id"),
        *("created_at", "updated_at", "gone"),
    ),
    "contact": ("name", "number", "email", "profile_pic_url", "is_group", "created_at", "updated_at", "gone"),
    "campaign": (
        *("name", "status", "message", "scheduled_at", "sent_count", "failed_count"),
        *("created_at", "updated_at", "gone"),
    ),
}
"""Fields that are a register each, as they are."""

_CONTENT: Final = ("body", "media_type", "deleted")
"""What makes a revision of a message."""

_NO_TICKET: Final = Ticket()
_json = msgspec.json.Encoder(order="deterministic")

Registers = dict[str, Value | tuple[Value, ...]]


def apply(entry: LogEntry, payload: Payload, rows: Mapping[Key, Row]) -> dict[Key, Row]:
    """Return the rows that the event changes; a row missing in `rows` is not there yet.

    `rows` must hold every row of `touched` that exists. Raises InvalidEventError where the event names no subject.
    """
    return merge_all(claims(entry.event, payload), entry.position, rows)


def touched(event: Event, payload: Payload) -> frozenset[Key]:
    """Return every row that `apply` may change. Raises InvalidEventError as `apply` does."""
    return frozenset(claim.key for claim in claims(event, payload))


def merge_all(claimed: Iterable[Claim], position: int, rows: Mapping[Key, Row]) -> dict[Key, Row]:
    """Return the rows that the claims of one event change: `apply` for who keeps the claims."""
    changed: dict[Key, Row] = {}
    for claim in claimed:
        key = claim.key
        held = changed[key] if key in changed else rows.get(key)
        row = merge(held, claim, position)
        if row is not held:
            changed[key] = row
    return changed


class _Source(NamedTuple):
    """What every claim of one event needs of it. Times are microseconds."""

    event: Event
    observed: bool
    rank: int  # of what it says about its subject
    at: int  # when it happened, as far as anybody knows
    latest: int  # no version time is beyond

    def time(self, updated_at: datetime | None | UnsetType) -> int:
        """Return the version time: an observation's is the page's, else the thing's own, else the event's."""
        if self.observed or not isinstance(updated_at, datetime):
            return self.at
        return min(to_micros(updated_at), self.latest)


def claims(event: Event, payload: Payload) -> list[Claim]:
    """Take the event apart into what it says about each row; raise InvalidEventError("no_id") where it names none."""
    subject = event.subject
    if not subject:
        raise InvalidEventError("no_id", event.type.value)
    received, observed = to_micros(event.received_at), event.type in OBSERVED
    at = received if event.occurred_at is None else to_micros(event.occurred_at)
    rank = OBSERVATION if observed else OWN
    source = _Source(event, observed, rank, min(at, received + SKEW), received + SKEW)
    match payload:
        case MessagePayload():
            return _message(source, payload, subject)
        case TicketPayload():
            return _ticket(source, payload.ticket, subject, payload.contact, known=True)
        case ContactPayload():
            return [_contact(source, payload.contact, subject, known=True)]
        case CampaignPayload():
            return [_campaign(source, payload.campaign, subject)]
        case _:
            assert_never(payload)


def _message(source: _Source, payload: MessagePayload, subject: str) -> list[Claim]:
    message, event = payload.message, source.event
    at = source.time(message.updated_at)
    key = Key("message", event.tenant, subject)
    places: Registers = {}
    if event.ticket_id:
        places["ticket_id"] = event.ticket_id
    if event.contact_id:
        places["contact_id"] = event.contact_id
    registers = _fields("message", message)
    claimed = []
    if not source.observed:
        registers |= places
    elif places:
        # A list shows messages of one ticket: it says where a message is only if nobody else does.
        claimed.append(Claim(key, at - BELOW, SNAPSHOT, places))
    # An ack alone leaves a stub: the message itself was not seen, and may never come.
    known = event.type is not EventType.MESSAGE_ACK
    least, most = _ack(event, message, at)
    claimed.append(Claim(key, at, source.rank, registers, known, least, most))
    if (revision := _revision(source, message, key, at)) is not None:
        claimed.append(revision)
    ticket = payload.ticket if isinstance(payload.ticket, Ticket) else _NO_TICKET
    return claimed + _ticket(source, ticket, _first(ticket.id, event.ticket_id), payload.contact, known=False)


def _ack(event: Event, message: Message, at: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the least and the most that the raw ack says; values outside the table say nothing."""
    ack = message.ack
    if not isinstance(ack, int):
        return {}, {}
    if (level := acks.LEVELS.get(ack)) is not None:
        return {f"{level}_at": at}, {"ack": ack}
    # Elsewhere 0 is a column's default, so only an ack event can mean failure.
    if acks.failed(ack) and event.type is EventType.MESSAGE_ACK:
        return {"failed_at": at}, {}
    return {}, {}


def _revision(source: _Source, message: Message, key: Key, at: int) -> Claim | None:
    content = {name: value for name in _CONTENT if (value := getattr(message, name)) is not UNSET}
    if not content:
        return None
    text = _json.encode(content)
    digest = hashlib.blake2b(text, digest_size=16).hexdigest()
    registers: Registers = {} if message.media_url is UNSET else {"media_url": message.media_url}
    return Claim(
        Key("message_revision", key.tenant, key.id, digest),
        at,
        source.rank,
        registers,
        known=True,
        least={"first_at": at},
        fixed={"content": text.decode()},
    )


def _ticket(
    source: _Source, ticket: Ticket, ticket_id: str | None, beside: Contact | None | UnsetType, *, known: bool
) -> list[Claim]:
    """Claim the ticket (an own event's where `known`, else a snapshot), and the contacts shown in and beside it."""
    tenant = source.event.tenant
    shown = [contact for contact in (ticket.contact, beside) if isinstance(contact, Contact)]
    contact_id = _first(ticket.contact_id, *(contact.id for contact in shown), source.event.contact_id)
    claimed = []
    if ticket_id:
        registers = _fields("ticket", ticket)
        _refer(registers, "user", ticket.user)
        _refer(registers, "queue", ticket.queue)
        if contact_id or ticket.contact_id is None or ticket.contact is None:
            registers["contact_id"] = contact_id
        rank = source.rank if known else SNAPSHOT
        claimed.append(Claim(Key("ticket", tenant, ticket_id), source.time(ticket.updated_at), rank, registers, known))
    stub = contact_id
    for contact in shown:
        if nested_id := contact.id or contact_id:
            claimed.append(_contact(source, contact, nested_id, known=False))
            stub = None if nested_id == stub else stub
    if stub:
        claimed.append(Claim(Key("contact", tenant, stub), source.at, SNAPSHOT, {}))
    return claimed


def _first(*ids: Text) -> str | None:
    for one in ids:
        if isinstance(one, str) and one:
            return one
    return None


def _refer(registers: Registers, name: str, ref: Ref | None | UnsetType) -> None:
    if ref is None:
        registers[name] = (None, None)
    elif ref is not UNSET and not (ref.id is UNSET and ref.name is UNSET):
        registers[name] = (ref.id or None, ref.name or None)


def _contact(source: _Source, contact: Contact, contact_id: str, *, known: bool) -> Claim:
    registers = _fields("contact", contact)
    if contact.extra_info is not UNSET:
        info = contact.extra_info
        registers["extra_info"] = None if info is None else _json.encode(info).decode()
    rank = source.rank if known else SNAPSHOT
    key = Key("contact", source.event.tenant, contact_id)
    return Claim(key, source.time(contact.updated_at), rank, registers, known)


def _campaign(source: _Source, campaign: Campaign, subject: str) -> Claim:
    key = Key("campaign", source.event.tenant, subject)
    return Claim(key, source.time(campaign.updated_at), source.rank, _fields("campaign", campaign), known=True)


def _fields(table: Table, resource: Ticket | Message | Contact | Campaign) -> Registers:
    """Return the registers of the fields that are there: absent is no claim, null is one."""
    registers: Registers = {}
    for name in _FIELDS[table]:
        value = getattr(resource, name)
        if value is not UNSET:
            registers[name] = to_micros(value) if isinstance(value, datetime) else value
    return registers


def failed_at(message: Mapping[str, Any]) -> int | None:
    """Return when sending failed, of a message row's columns: only ours can fail, and none that was delivered."""
    if message["from_me"] is not True or (message["ack"] or 0) >= acks.DELIVERED:
        return None
    at: int | None = message["failed_at"]
    return at


def reached(before: Row | None, after: Row) -> list[tuple[str, float | None]]:
    """Return what a message newly reached: level or "failed", and seconds since its creation where that is known.

    Nothing for what a contact wrote: its ack has no dependable meaning.
    """
    new = after.values
    if new["from_me"] is False:
        return []
    columns = {name: new[f"{name}_at"] for name in acks.LEVELS.values()} | {"failed": failed_at(new)}
    if before is not None:
        old = {**before.values, "failed_at": failed_at(before.values)}
        columns = {name: at for name, at in columns.items() if old[f"{name}_at"] is None}
    return [(name, _seconds(new["created_at"], at)) for name, at in columns.items() if isinstance(at, int)]


def _seconds(start: Value, end: int) -> float | None:
    return max(0, end - start) / 1_000_000 if isinstance(start, int) else None


@dataclass(frozen=True, slots=True)
class Revision:
    """One wording a message had. `content` has of body, media_type and deleted what was there."""

    number: int
    content: Mapping[str, Any]
    media_url: str | None
    first_at: int


def revisions(rows: Iterable[Mapping[str, Any]]) -> list[Revision]:
    """Give numbers, from 1, oldest first, to the revision rows of one message (columns content, media_url, first_at).

    A row whose every field another row has too, with more beside, is a partial view of that one and left out.
    """
    read = [(row["first_at"], row["content"], row["media_url"], msgspec.json.decode(row["content"])) for row in rows]
    whole = [one for one in read if not any(one[3].items() < other[3].items() for other in read)]
    whole.sort(key=lambda one: one[:2])
    return [Revision(number, content, url, at) for number, (at, _, url, content) in enumerate(whole, 1)]
