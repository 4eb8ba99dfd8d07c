"""Random histories and the rows they are folded into: few ids, few values, few seconds, so that everything collides."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st
from msgspec import UNSET

from whatsms_events.domain import fold, values
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Event,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
    decode,
    encode,
    entity,
    to_micros,
)
from whatsms_events.domain.normalize import ids
from whatsms_events.domain.resources import GROUPS, NAMED, RESOURCES
from whatsms_events.domain.rows import Key, Row

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
Rows = dict[Key, Row]
History = Sequence[tuple[EventType, Payload, float | None, float]]


def at(seconds: float) -> datetime:
    """Return a time of the test: seconds after START."""
    return START + timedelta(seconds=seconds)


def micros(seconds: float) -> int:
    """Return the same as the projection stores it."""
    return to_micros(at(seconds))


def entry(
    position: int,
    event_type: EventType,
    payload: Payload,
    seconds: float | None = 0,
    *,
    received: float | None = None,
    tenant: str = "t1",
) -> LogEntry:
    """Return an event as the normaliser makes it; our clock shows `received`, or the vendor's time."""
    about = ids(payload)
    event = Event(
        id=UUID(int=position),
        type=event_type,
        tenant=tenant,
        occurred_at=None if seconds is None else at(seconds),
        received_at=at((seconds or 0) if received is None else received),
        origin="backfill" if event_type in fold.OBSERVED else "webhook",
        subject=about.subject,
        ticket_id=about.ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=encode(payload),
    )
    return LogEntry(position=position, event=event)


def folded(entries: Iterable[LogEntry], rows: Rows | None = None) -> Rows:
    """Apply the entries to `rows` (changed in place) or to nothing, giving each only the rows of its claims."""
    rows = {} if rows is None else rows
    for one in entries:
        claims = fold.claims(one.event, decode(one.event))
        touched = {claim.key for claim in claims}
        changed = fold.merge_all(claims, one.position, {key: row for key, row in rows.items() if key in touched})
        assert changed.keys() <= touched
        rows.update(changed)
    return rows


def log(*events: tuple[EventType, Payload, float]) -> list[LogEntry]:
    """Return a log of the events, in this order."""
    return [entry(number, *one) for number, one in enumerate(events, 1)]


def message(**fields: object) -> MessagePayload:
    """Return a payload about message m1."""
    return MessagePayload(message=Message(id="m1", **fields))  # type: ignore[arg-type]


def ticket(**fields: object) -> TicketPayload:
    """Return a payload about ticket k1."""
    return TicketPayload(ticket=Ticket(id="k1", **fields))  # type: ignore[arg-type]


MESSAGE, TICKET, CONTACT = Key("message", "t1", "m1"), Key("ticket", "t1", "k1"), Key("contact", "t1", "c1")

SECONDS = st.sampled_from([0, 1, 2, 3, 8])
WORD = st.sampled_from([None, "a", "b"])
FLAG = st.sampled_from([None, True, False])
TIME = st.none() | SECONDS.map(at)
CONTACT_ID = st.sampled_from(["c1", "c2"])
REF = st.none() | st.builds(Ref, id=st.sampled_from(["1", "2"]), name=WORD | st.just(UNSET))


def partial(
    shape: type, required: dict[str, st.SearchStrategy[object]], **optional: object
) -> st.SearchStrategy[object]:
    """Return structs of the shape with the required fields and any of the optional ones."""
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: shape(**fields))  # type: ignore[arg-type]


BY_READER: Mapping[object, st.SearchStrategy[object]] = {
    values.text: WORD,
    values.word: WORD,
    values.number: WORD,
    values.identifier: WORD,
    values.flag: FLAG,
    values.moment: TIME,
    values.count: st.sampled_from([None, 0, 1, 2]),
    values.ack: st.sampled_from([None, -1, 0, 1, 2, 3, 4, 5, 99]),
    values.items: st.sampled_from([None, [], [{"name": "x", "value": "y"}], [{"id": 7, "name": "x", "value": "y"}]]),
    None: REF,
}


def optional(entity: Entity) -> dict[str, st.SearchStrategy[object]]:
    """Return values for each field of the entity's table but its id; of what only a backfill says, `gone`."""
    fields = {one.name: one for one in RESOURCES[entity] if one.name not in ("id", "contact", "merged_into")}
    return {name: BY_READER[one.read] for name, one in fields.items()} | {"gone": FLAG}


CONTACTS = partial(Contact, {"id": CONTACT_ID}, **optional("contact"))
NAMELESS = partial(Contact, {}, name=WORD)
TICKETS = partial(
    Ticket,
    {"id": st.sampled_from(["k1", "k2"])},
    **optional("ticket")
    | {
        "status": st.sampled_from(["open", "closed", None]),
        "contact": st.none() | CONTACTS | NAMELESS,
        "contact_id": st.none() | CONTACT_ID,
    },
)
MESSAGES = partial(
    Message,
    {"id": st.sampled_from(["m1", "m2"])},
    **optional("message") | {"ticket_id": st.sampled_from([None, "k1", "k2"]), "contact_id": st.none() | CONTACT_ID},
)
CAMPAIGNS = partial(
    Campaign,
    {"id": st.just("p1")},
    **optional("campaign") | {"status": st.sampled_from(["running", "finished", None])},
)
PAYLOADS: Mapping[str, st.SearchStrategy[object]] = {
    "message": partial(MessagePayload, {"message": MESSAGES}, ticket=st.none() | TICKETS, contact=st.none() | CONTACTS),
    "ticket": partial(TicketPayload, {"ticket": TICKETS}, contact=st.none() | CONTACTS),
    "contact": partial(ContactPayload, {"contact": CONTACTS}),
    "campaign": partial(CampaignPayload, {"campaign": CAMPAIGNS}),
}
EVENT = st.sampled_from(list(EventType)).flatmap(
    lambda kind: st.tuples(st.just(kind), PAYLOADS[entity(kind)], st.none() | SECONDS, SECONDS)
)
HISTORY = st.lists(EVENT, max_size=14)


def numbered(history: History) -> list[LogEntry]:
    """Return the log that got this history in this order."""
    return [
        entry(number, kind, payload, seconds, received=received)
        for number, (kind, payload, seconds, received) in enumerate(history, 1)
    ]


Shown = dict[tuple[Key, str], object]


def shown(rows: Rows) -> Shown:
    """Return each column, and where each register's version stands but for its position."""
    found: Shown = {}
    for key, row in rows.items():
        found |= {(key, name): value for name, value in row.values.items()}
        found |= {(key, f"version of {name}"): (v.time, v.rank) for name, v in row.versions.items()}
        found[key, "known"] = row.known
    return found


def in_doubt(rows: Rows) -> set[tuple[Key, str]]:
    """Return each column whose register is marked as doubtful."""
    return {
        (key, column)
        for key, row in rows.items()
        for name, version in row.versions.items()
        if version.doubtful
        for column in (name, *GROUPS.get(NAMED.get(name, name), ()))
    }


def assert_same_but_for_doubt(one: Rows, other: Rows) -> None:
    """Assert that two tables differ at most where one of them marks a doubt."""
    doubted = in_doubt(one) | in_doubt(other)
    first, second = shown(one), shown(other)
    assert {place: value for place, value in first.items() if place not in doubted} == {
        place: value for place, value in second.items() if place not in doubted
    }
