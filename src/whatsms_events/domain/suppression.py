"""What is blanked of an event because it tells of somebody who was forgotten after it happened.

Theory of operation. A person is recognised by what ties an event to them: the ids of their contact, tickets and
messages, and their number. Of each a *mark* is kept, a keyed hash, with the moment at which the person was forgotten.
`remaining` looks for marks in every part of an event, and blanks each part that is theirs and from before:

    message     theirs: its id, its author, or its ticket is; in a group an unknown field may name the author. From
                before: its id was known then, or it was created before; where its time is not told, the event happened
                before.
    ticket      theirs: its id or its contact is. Its last message is from before unless the ticket was created since.
    contact     theirs: its id or its number is. From before: it did not change since, is none that was created since,
                and stands beside nothing new that the person did; where no time of change is told, as a message: by
                when it was created, or by its id. A new message brings name and number back: what happens afterwards
                is new.
    unknown     what nobody knows of a part goes with that part. In other people's events it goes where it names them,
                in new ones only where it tells that it is of before; of a list only what names them, as of the lists
                of those whom a campaign went to. What quotes a message of theirs goes from every event.

What was received before, or stands in the log before the person was forgotten, is from before whatever its times say;
so is what tells no time. Only where an event came within the last minutes before, its times decide: a clock may have
been set back. The same function blanks the log when a person is forgotten, and at the door what comes late.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar, assert_never
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain.authors import contacts_shown
from whatsms_events.domain.before import parked_before, shown_before
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Event,
    EventType,
    Extra,
    Message,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    decode,
    encode,
)
from whatsms_events.domain.forms import inflated
from whatsms_events.domain.last_message import plain
from whatsms_events.domain.marks import Find, Suppressions, number_name, shows, text_name
from whatsms_events.domain.named import (
    Names,
    is_id,
    latest,
    leaves,
    named_in_bytes,
    owner,
    tenants_named,
    unquoted,
    without,
)
from whatsms_events.domain.normalize import ids
from whatsms_events.domain.ownership import Mine, Ownership
from whatsms_events.domain.personal import EXTRA, PERSONAL
from whatsms_events.domain.verdicts import Append, Park

_NOBODY: Final = UUID(int=0)

_Part = TypeVar("_Part", bound=Message | Ticket | Contact | Campaign)


def suppressed(append: Append, suppressions: Suppressions) -> Append:
    """Return an event as it may be appended: without its bytes, where anything of it had to be blanked."""
    event = append.event
    payload, find = decode(event), suppressions.of(event.tenant)
    left, theirs = judged(event, payload, find)
    if left is payload and not theirs:
        return append
    kept = msgspec.structs.replace(event, data=encode(left))
    return msgspec.structs.replace(append, event=kept, blanked=True, tied=_tied(event, payload, left, find))


def _tied(event: Event, payload: Payload, left: Payload, find: Find) -> dict[str, int]:
    """Return the contacts that lost their number here and are known by it alone, with the moment of each.

    What a backfill saw without a time of its own tells how things stand now: somebody else may have the number now.
    """
    found: dict[str, int] = {}
    for before, after in zip(contacts_shown(payload), contacts_shown(left), strict=False):
        if event.origin == "backfill" and not isinstance(before.updated_at, datetime):
            continue
        if isinstance(before.number, str) and not isinstance(after.number, str) and isinstance(before.id, str):
            number = number_name(before.number)
            at = None if number is None else find("number", number)
            if at is not None and find("contact", before.id) is None and before.is_group is not True:
                found[before.id] = at
    return found


def suppressed_park(park: Park, suppressions: Suppressions) -> Park:
    """Return a delivery as it may be parked: without its bytes where they tell of somebody from before."""
    raw = inflated(park.raw, park.content_encoding)
    of = [] if raw is None else [park.tenant, *(tenants_named(raw) if park.reason == "other_tenant" else ())]
    at = None if raw is None else latest(*(named_in_bytes(raw, suppressions.of(one)) for one in of))
    if raw is None or at is None or not parked_before(park.received_at, raw, at):
        return park
    return msgspec.structs.replace(park, raw=b"")


def still_shown(
    tenant: str, entity: Entity, payload: Payload, *, as_of: datetime, ticket_id: str | None, suppressions: Suppressions
) -> Payload:
    """Return what a backfill may keep of what the REST API showed of a thing; `ticket_id`: in whose list."""
    about = ids(payload)
    event = Event(
        id=_NOBODY,
        type=EventType(f"{entity}.observed"),
        tenant=tenant,
        occurred_at=as_of,
        received_at=as_of,
        origin="backfill",
        subject=about.subject,
        ticket_id=about.ticket_id or ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=b"",
    )
    return remaining(event, payload, suppressions.of(tenant))


def remaining(event: Event, payload: Payload, find: Find, *, settled: bool = False, late: bool = True) -> Payload:
    """Return what stays of an event; the very same payload where nothing of it is to be blanked.

    `settled`: it stood in the log before the person was forgotten. `late`: it is new in the log, so that a blanked
    field is absent, and claims nothing over what was told since; otherwise it becomes null, as `personal` says.
    """
    return judged(event, payload, find, settled=settled, late=late)[0]


def judged(
    event: Event, payload: Payload, find: Find, *, settled: bool = False, late: bool = True
) -> tuple[Payload, bool]:
    """Return what stays of an event, as `remaining` does, and whether it is about somebody from before.

    If it is, its bytes go, whatever was read of them.
    """
    whose = Ownership(event, find, settled)
    look = _Look(whose, UNSET if late else None)
    left: Payload
    mine: Mine | None = None
    match payload:
        case MessagePayload():
            mine = whose.of_message(payload)
            left = look.message_payload(payload, mine)
        case TicketPayload():
            mine = whose.of_ticket(payload.ticket, event.ticket_id, payload.contact)
            left = look.ticket_payload(payload, mine)
        case ContactPayload():
            mine = whose.of_contact(payload)
            left = look.contact_payload(payload, mine)
        case CampaignPayload():
            extra = look.unnamed(payload.campaign.extra, of_many=True)
            campaign = msgspec.structs.replace(payload.campaign, extra=extra)
            left = msgspec.structs.replace(payload, campaign=campaign, extra=look.unnamed(payload.extra, of_many=True))
        case _:
            assert_never(payload)
    return payload if left == payload else left, mine is not None and not mine.new


@dataclass(frozen=True, slots=True)
class _Look:
    """One event that is looked at."""

    whose: Ownership
    gap: UnsetType | None

    def message_payload(self, payload: MessagePayload, mine: Mine | None) -> MessagePayload:
        message, ticket, event = payload.message, payload.ticket, self.whose.event
        new = mine is not None and mine.new
        written = message.body if new or mine is None else UNSET
        shown = ticket
        if isinstance(ticket, Ticket):
            quoted = message.body if mine is not None and not new else UNSET
            of = mine if self.whose.beside(payload) else None
            shown = self._ticket(ticket, event.ticket_id, carried=new, written=written, quoted=quoted, mine=of)
        beside = payload.contact
        if isinstance(beside, Contact):
            beside = self._contact(beside, carried=new)
        part, around = self._part(message, mine), self._extra(payload.extra, mine)
        if self._quotes_theirs(message, {**part.extra, **around}):
            part, around = msgspec.structs.replace(part, extra=unquoted(part.extra)), unquoted(around)
        return msgspec.structs.replace(payload, message=part, ticket=shown, contact=beside, extra=around)

    def _quotes_theirs(self, message: Message, extra: Extra) -> bool:
        """Tell whether a message quotes one of theirs: by its id, or by what they wrote in this ticket of a group."""
        if self.whose.at("message", message.quoted_message_id) is not None:
            return True
        of = message.ticket_id if isinstance(message.ticket_id, str) else self.whose.event.ticket_id
        if not extra or of is None:
            return False
        quoted = (leaf for name in extra.keys() - unquoted(extra) for _, leaf in leaves(extra[name]))
        return any(self.whose.find("text", text_name(of, one)) is not None for one in quoted)

    def ticket_payload(self, payload: TicketPayload, mine: Mine | None) -> TicketPayload:
        carried = mine is not None and mine.new
        beside = payload.contact
        if isinstance(beside, Contact):
            beside = self._contact(beside, carried=carried)
        ticket = self._ticket(payload.ticket, self.whose.event.ticket_id, carried=False, mine=mine)
        return msgspec.structs.replace(payload, ticket=ticket, contact=beside, extra=self._extra(payload.extra, mine))

    def contact_payload(self, payload: ContactPayload, mine: Mine | None) -> ContactPayload:
        contact = self._part(payload.contact, mine)
        return msgspec.structs.replace(payload, contact=contact, extra=self._extra(payload.extra, mine))

    def _ticket(
        self,
        ticket: Ticket,
        ticket_id: str | None,
        *,
        carried: bool,
        written: Any = UNSET,
        quoted: Any = UNSET,
        mine: Mine | None = None,
    ) -> Ticket:
        """Return what stays of a ticket; `written` is a text of the same event that stays, `quoted` one that goes."""
        mine = mine or self.whose.of_ticket(ticket, ticket_id)
        last, of = ticket.last_message, ticket.id if isinstance(ticket.id, str) else ticket_id
        if isinstance(last, str) and not (isinstance(written, str) and shows(plain(last), plain(written))):
            theirs = mine is not None and not mine.new
            if mine is None:
                wrote = of is not None and self.whose.find("text", text_name(of, last)) is not None
                theirs = wrote or (isinstance(quoted, str) and shows(plain(last), plain(quoted)))
            last = self.gap if theirs else last
        nested = ticket.contact
        if isinstance(nested, Contact):
            nested = self._contact(nested, carried=carried or (mine is not None and mine.new))
        extra = self._extra(ticket.extra, mine)
        return msgspec.structs.replace(ticket, last_message=last, contact=nested, extra=extra)

    def _contact(self, contact: Contact, *, carried: bool) -> Contact:
        at = self.whose.contact_at(contact)
        if at is None:
            return self._part(contact, None)
        new = not self.whose.was_there(at) and (carried or self.whose.changed_after(contact, at))
        return self._part(contact, Mine(at, new))

    def _part(self, part: _Part, mine: Mine | None) -> _Part:
        """Return what stays of a part without what is nested in it."""
        extra = self._extra(part.extra, mine)
        if mine is None or mine.new:
            return msgspec.structs.replace(part, extra=extra)
        fields: dict[str, Any] = {EXTRA: extra}
        for name in PERSONAL[type(part).__name__.lower()]:
            if getattr(part, name) not in (None, UNSET):
                # That a message was shown at all must stay told: see `fold`.
                fields[name] = None if name == "body" else self.gap
        return msgspec.structs.replace(part, **fields)

    def _extra(self, extra: Extra, mine: Mine | None) -> Extra:
        if mine is None:
            return self.unnamed(extra)
        # What is new may still quote a message of before.
        return self.unnamed(extra, self._quotes) if mine.new else {}

    def unnamed(self, extra: Extra, names: Names | None = None, *, of_many: bool = False) -> Extra:
        """Return other people's unknown fields without what holds something of somebody who was forgotten."""
        if not extra:
            return extra
        names = names or self._names
        kept = {name: without(name, one, names, of_many=of_many) for name, one in extra.items()}
        left = {name: one for name, one in kept.items() if one is not UNSET}
        return extra if left == extra else left

    def _names(self, name: str, value: Any) -> bool:
        """Tell whether an unknown field shows a message of theirs, or who they are."""
        if self._quotes(name, value):
            return True
        for key, leaf in leaves(value, name):
            at, whose = owner(self.whose.find, key, leaf), self.whose
            if at is not None and (whose.was_there(at) or not whose.happened_after(at) or shown_before(value, at)):
                return True
        return False

    def _quotes(self, name: str, value: Any) -> bool:
        """Tell whether an unknown field shows a message of theirs from before."""
        ids = (leaf for key, leaf in leaves(value, name) if is_id("message", key, leaf))
        return self.whose.at("message", *ids) is not None
