"""What an event says about tickets, messages with their revisions, contacts and campaigns, and which rows follow.

An event is taken apart into claims about rows; `rows.merge` says what each claim does. Neither needs the order of
arrival, so the same events in any order give the same rows, but for fields marked doubtful.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, assert_never

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import acks, values
from whatsms_events.domain.doubt import LOADING
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Event,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Text,
    Ticket,
    TicketPayload,
    to_micros,
)
from whatsms_events.domain.resources import GROUPS, RESOURCES, Field
from whatsms_events.domain.rows import (
    BELOW,
    LOADED,
    NO_REGISTERS,
    OBSERVATION,
    OWN,
    SNAPSHOT,
    Claim,
    Key,
    Registers,
    Row,
    Table,
    Value,
    merge,
)
from whatsms_events.errors import InvalidEventError

OBSERVED: Final = (
    *(EventType.MESSAGE_OBSERVED, EventType.TICKET_OBSERVED),
    *(EventType.CONTACT_OBSERVED, EventType.CAMPAIGN_OBSERVED),
)

SKEW: Final = 5 * 60 * 1_000_000
"""How far ahead of our clock a version time may be: a vendor's clock gone wrong must not win for years."""

_json = msgspec.json.Encoder(order="deterministic")


def _json_text(value: Any) -> str:
    return _json.encode(value).decode()


def _converter(field: Field) -> Callable[[Any], Value] | None:
    if field.read is values.moment:
        return to_micros
    return _json_text if field.stored == "json" else None


class _Claimed:
    """The fields of a resource that are one register each; functions below claim the other fields."""

    def __init__(self, resource: type[msgspec.Struct], fields: Sequence[Field]) -> None:
        mine = [one for one in fields if one.stored in ("value", "json")]
        self.others: Final = tuple(sorted({*resource.__struct_fields__} - {one.name for one in mine}))
        self.converted: Final = tuple((one.name, convert) for one in mine if (convert := _converter(one)) is not None)


_STRUCTS: Final[Mapping[Entity, type[msgspec.Struct]]] = {
    "ticket": Ticket,
    "message": Message,
    "contact": Contact,
    "campaign": Campaign,
}
_CLAIMED: Final = {entity: _Claimed(_STRUCTS[entity], fields) for entity, fields in RESOURCES.items()}
_AS_THEY_ARE: Final = (datetime,)

_CONTENT: Final = ("body", "media_type", "deleted")
"""What makes a revision of a message."""

_NO_TICKET: Final = Ticket()


def merge_all(claimed: Iterable[Claim], position: int, rows: Mapping[Key, Row]) -> dict[Key, Row]:
    """Return the rows that the claims of one event change; a row missing in `rows` is not there yet.

    `rows` must hold every row of the claims' keys that exists.
    """
    changed: dict[Key, Row] = {}
    for claim in claimed:
        key = claim.key
        held = changed[key] if key in changed else rows.get(key)
        row = merge(held, claim, position)
        if row is not held:
            changed[key] = row
    return changed


class _Claimant(msgspec.Struct, frozen=True, gc=False):
    """An event, with what each of its claims needs of it. Times are microseconds."""

    event: Event
    observed: bool
    rank: int  # of what the event says about its subject
    at: int  # when it happened, as far as anybody knows
    latest: int  # the latest version time that is believed
    arrived: bool  # `at` only tells when the event came to us

    def place(self, updated_at: datetime | None | UnsetType, rank: int) -> tuple[int, int, bool]:
        """Return version time, rank, and whether that time is only when the event arrived.

        The version time of an observation is the page's; otherwise it is the thing's own, else the event's. A thing
        shown beside another one, without a time of its own, counts as old as it can be: see `LOADING`.
        """
        time, arrived = self.at, self.arrived
        if not self.observed:
            if isinstance(updated_at, datetime):
                time, arrived = to_micros(updated_at), False
            elif rank == SNAPSHOT:
                time, rank = time - LOADING, LOADED
        if time > self.latest:  # a clock that far ahead is wrong, and tells no time
            time, arrived = self.latest, True
        return time, rank, arrived

    def claim(
        self,
        key: Key,
        updated_at: datetime | None | UnsetType,
        rank: int,
        registers: Registers,
        *,
        known: bool = False,
    ) -> Claim:
        """Return a claim of these registers at its place."""
        time, rank, arrived = self.place(updated_at, rank)
        return Claim(key, time, rank, registers, known, arrived=arrived)

    def stub(self, table: Table, id_: str) -> Claim:
        """Return a claim that only names a thing."""
        return Claim(Key(table, self.event.tenant, id_), self.at, SNAPSHOT, NO_REGISTERS)

    def fallback(self, key: Key, registers: Registers) -> Claim:
        """Return a claim that counts only where nobody says better: below every real time."""
        return Claim(key, self.at - BELOW, SNAPSHOT, registers, arrived=self.arrived)


def claims(event: Event, payload: Payload) -> list[Claim]:
    """Take the event apart into what it says about each row; raise InvalidEventError("no_id") where it names none."""
    subject = event.subject
    if not subject:
        raise InvalidEventError("no_id", event.type.value)
    received, observed = to_micros(event.received_at), event.type in OBSERVED
    latest = received + SKEW
    at = received if event.occurred_at is None else to_micros(event.occurred_at)
    rank = OBSERVATION if observed else OWN
    by = _Claimant(event, observed, rank, min(at, latest), latest, event.occurred_at is None or at > latest)
    match payload:
        case MessagePayload():
            return _message(by, payload, subject)
        case TicketPayload():
            return _told_ticket(by, payload, subject)
        case ContactPayload():
            if event.type is EventType.CONTACT_FORGOTTEN:
                # The rows follow from what is left of the other events, whatever the order in which they are applied.
                return [by.stub("contact", subject)]
            return [_contact(by, payload.contact, subject, known=True)]
        case CampaignPayload():
            return [_campaign(by, payload.campaign, subject)]
        case _:
            assert_never(payload)


def _message(by: _Claimant, payload: MessagePayload, subject: str) -> list[Claim]:
    message, event = payload.message, by.event
    key = Key("message", event.tenant, subject)
    time, rank, arrived = by.place(message.updated_at, by.rank)
    registers = _registers("message", message)
    told, fallback = _whereabouts(by, payload)
    if (ours := _direction(event, message)) is not None:
        registers.pop("from_me", None)
        fallback["from_me"] = ours
    registers |= told
    least, most = _ack(event, message, time)
    claim = Claim(key, time, rank, registers, _shown(event, message), least, most, arrived=arrived)
    claimed = [claim]
    if fallback:
        claimed.append(by.fallback(key, fallback))
    if (revision := _revision(claim, message)) is not None:
        claimed.append(revision)
    if isinstance(message.quoted_message_id, str):
        claimed.append(Claim(Key("message", event.tenant, message.quoted_message_id), time, SNAPSHOT, {}))
    return claimed + _around(by, payload)


_ACK: Final = EventType.MESSAGE_ACK  # a member of an enumeration is found by a call each time
_OURS: Final = {EventType.MESSAGE_RECEIVED: False, EventType.MESSAGE_SENT: True}


def _direction(event: Event, message: Message) -> bool | None:
    """Return whether the message is ours by the event's name; None where the message tells it, or nothing does."""
    return None if isinstance(message.from_me, bool) else _OURS.get(event.type)


def _shown(event: Event, message: Message) -> bool:
    """Tell whether the event shows the message itself. Most acks do not: they leave a stub, which may stay one."""
    return event.type is not _ACK or message.body is not UNSET


def _whereabouts(by: _Claimant, payload: MessagePayload) -> tuple[Registers, Registers]:
    """Return the ticket and the contact of the message: what the event tells, and what counts only as a fallback.

    The author is the contact that the message names. A contact beside it may be the author or a group, so it counts
    only where the message names none, and never where it is known to be a group. A list shows the messages of one
    ticket: that ticket counts only where no event names another.
    """
    message, event = payload.message, by.event
    author = message.contact_id or None
    told: Registers = {"ticket_id": event.ticket_id} if event.ticket_id else {}
    fallback: Registers = {}
    if author:
        told["contact_id"] = author
    elif event.contact_id and not _is_group(payload, event.contact_id):
        fallback["contact_id"] = event.contact_id
    return ({}, fallback | told) if by.observed else (told, fallback)


def _is_group(payload: MessagePayload, contact_id: str) -> bool:
    ticket, beside = payload.ticket, payload.contact
    shown = ticket.contact if ticket else None
    return bool(
        (beside and beside.is_group is True and beside.id == contact_id)
        or (shown and shown.is_group is True and shown.id == contact_id)
    )


def _around(by: _Claimant, payload: MessagePayload) -> list[Claim]:
    """Claim the ticket and the contacts that are shown or named by a message."""
    tenant, event = by.event.tenant, by.event
    ticket, beside = payload.ticket or _NO_TICKET, payload.contact or None
    if ticket is _NO_TICKET and beside is None:
        named: tuple[tuple[Entity, str | None], ...] = (("ticket", event.ticket_id), ("contact", event.contact_id))
        return [by.stub(table, one) for table, one in named if one]
    ticket_id = ticket.id or event.ticket_id
    beside_id = None if beside is None else beside.id or None
    whose = _whose(ticket)
    claimed = []
    if ticket_id:
        key = Key("ticket", tenant, ticket_id)
        registers = {} if ticket is _NO_TICKET else _ticket_registers(ticket)
        if whose or (_names_nobody(ticket) and beside_id is None):
            registers["contact_id"] = whose
        claimed.append(by.claim(key, ticket.updated_at, SNAPSHOT, registers))
        if beside_id and not whose:
            # In a group this contact may be the author: it fills a gap, but replaces no contact that was told.
            claimed.append(by.fallback(key, {"contact_id": beside_id}))
    shown = [] if beside is None else [(beside_id or event.contact_id, beside)]
    if ticket.contact:
        shown.insert(0, (ticket.contact.id or whose, ticket.contact))
    return claimed + _contacts(by, shown, (whose, event.contact_id))


def _told_ticket(by: _Claimant, payload: TicketPayload, ticket_id: str) -> list[Claim]:
    """Claim the ticket that the event is about, and the contacts that are shown in it or beside it."""
    ticket, event = payload.ticket, by.event
    nested = [one for one in (ticket.contact, payload.contact) if isinstance(one, Contact)]
    whose = _first(ticket.contact_id, *(one.id for one in nested), event.contact_id)
    registers = _ticket_registers(ticket)
    if whose or _names_nobody(ticket):
        registers["contact_id"] = whose
    key = Key("ticket", event.tenant, ticket_id)
    claimed = [by.claim(key, ticket.updated_at, by.rank, registers, known=True)]
    return claimed + _contacts(by, [(one.id or whose, one) for one in nested], (whose,))


def _contacts(by: _Claimant, shown: Sequence[tuple[str | None, Contact]], named: Iterable[str | None]) -> list[Claim]:
    """Claim the contacts that are shown, and stubs for those that are only named."""
    claimed = [_contact(by, one, contact_id, known=False) for contact_id, one in shown if contact_id]
    told = [contact_id for contact_id, _ in shown]
    if rest := {one for one in named if one and one not in told}:
        claimed += [by.stub("contact", one) for one in sorted(rest)]
    return claimed


def _ticket_registers(ticket: Ticket) -> Registers:
    registers = _registers("ticket", ticket)
    for name in GROUPS:
        if (ref := getattr(ticket, name)) is not UNSET:
            _refer(registers, name, ref)
    return registers


def _whose(ticket: Ticket) -> str | None:
    """Return the id of the contact that the ticket itself names."""
    return ticket.contact_id or (ticket.contact.id if ticket.contact else None) or None


def _names_nobody(ticket: Ticket) -> bool:
    return ticket.contact_id is None or ticket.contact is None


def _ack(event: Event, message: Message, at: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return the least and the most that the raw ack says; values outside the table say nothing.

    A webhook tells when a level was reached; an observation only that it was reached by then.
    """
    ack = message.ack
    if not isinstance(ack, int):
        return {}, {}
    if (level := acks.LEVELS.get(ack)) is not None:
        return {f"{level}_by" if event.type in OBSERVED else f"{level}_at": at}, {"ack": ack}
    # Elsewhere 0 is a column's default, so only an ack event can mean failure.
    if acks.failed(ack) and event.type is _ACK:
        return {"failed_at": at}, {}
    return {}, {}


def _revision(claim: Claim, message: Message) -> Claim | None:
    content = {name: value for name in _CONTENT if (value := getattr(message, name)) is not UNSET}
    if not content:
        return None
    text, digest = revision_of(content)
    key = Key("message_revision", claim.key.tenant, claim.key.id, digest)
    registers: Registers = {} if message.media_url is UNSET else {"media_url": message.media_url}
    least, fixed = {"first_at": claim.time}, {"content": text}
    return Claim(key, claim.time, claim.rank, registers, True, least, fixed=fixed, arrived=claim.arrived)


def revision_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a revision's row holds of a message's content, and the digest that is its key."""
    text = _json.encode(content)
    return text.decode(), hashlib.blake2b(text, digest_size=16).hexdigest()


def _first(*ids: Text) -> str | None:
    for one in ids:
        if isinstance(one, str) and one:
            return one
    return None


def _refer(registers: Registers, name: str, ref: Ref | None) -> None:
    """Claim who an agent or a queue is, and the name where one is told: an id alone says nothing of its name."""
    if ref is None:
        registers[name] = None
    elif not (ref.id is UNSET and ref.name is UNSET):
        # A name without an id is somebody, so it gets the id "", which no real one has.
        one = ref.id or ("" if ref.name else None)
        registers[name] = one
        if ref.name is not UNSET:
            registers[f"{name}_named"] = _json_text((one, ref.name or None))


def _contact(by: _Claimant, contact: Contact, contact_id: str, *, known: bool) -> Claim:
    registers = _registers("contact", contact)
    rank = by.rank if known else SNAPSHOT
    key = Key("contact", by.event.tenant, contact_id)
    return by.claim(key, contact.updated_at, rank, registers, known=known)


def _campaign(by: _Claimant, campaign: Campaign, subject: str) -> Claim:
    key = Key("campaign", by.event.tenant, subject)
    return by.claim(key, campaign.updated_at, by.rank, _registers("campaign", campaign), known=True)


def _registers(entity: Entity, resource: Ticket | Message | Contact | Campaign) -> Registers:
    """Return the registers of the fields that are there: absent is no claim, null is one."""
    claimed = _CLAIMED[entity]
    # One call leaves out what is absent; to look at each field costs several times as much.
    registers: Registers = msgspec.to_builtins(resource, builtin_types=_AS_THEY_ARE)
    for name in claimed.others:
        registers.pop(name, None)
    for name, convert in claimed.converted:
        if (value := registers.get(name)) is not None:
            registers[name] = convert(value)
    return registers


@dataclass(frozen=True, slots=True)
class Revision:
    """One wording a message had. `content` has those of body, media_type and deleted that were shown."""

    number: int
    content: Mapping[str, Any]
    media_url: str | None
    first_at: int


def revisions(rows: Iterable[Mapping[str, Any]]) -> list[Revision]:
    """Give numbers, from 1, oldest first, to the revision rows of one message (columns content, media_url, first_at).

    A row whose fields all stand in another row that has more of them is a partial view of it, and is left out.
    """
    read = [(row["first_at"], row["content"], row["media_url"], msgspec.json.decode(row["content"])) for row in rows]
    whole = [one for one in read if not any(one[3].items() < other[3].items() for other in read)]
    whole.sort(key=lambda one: one[:2])
    return [Revision(number, content, url, at) for number, (at, _, url, content) in enumerate(whole, 1)]
