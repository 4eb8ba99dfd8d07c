"""What is drift and what mends it: laws on rows from random histories, and the shapes of the vendor's page."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from domain.histories import (
    CONTACT,
    CONTACT_ID,
    FLAG,
    HISTORY,
    MESSAGE,
    PAYLOADS,
    REF,
    TICKET,
    TIME,
    WORD,
    History,
    Rows,
    assert_same_but_for_doubt,
    at,
    entry,
    folded,
    log,
    message,
    numbered,
    partial,
    ticket,
)
from whatsms_events.domain import drift, fields, fold
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.differences import COMPARED
from whatsms_events.domain.drift import DriftKind, Finding, Sighting, compare
from whatsms_events.domain.events import (
    SHAPES,
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
    decode,
    event_id,
    to_micros,
)
from whatsms_events.domain.gone import is_gone
from whatsms_events.domain.resources import GROUPS
from whatsms_events.domain.rows import COLUMNS, Key, Row, Version
from whatsms_events.errors import InvalidEventError

T = EventType
CAMPAIGN = Key("campaign", "t1", "p1")
ENTITIES: Sequence[Entity] = get_args(Entity)
LATER = 99
"""A position behind every one of a history."""


def sighting(payload: Payload, seconds: float = 10, log_end: int = LATER, ticket_id: str | None = None) -> Sighting:
    """Return what the vendor showed at a time, asked for when the log ended there."""
    entity = next(name for name, shape in SHAPES.items() if type(payload) is shape)
    return Sighting(entity, getattr(payload, entity).id, payload, at(seconds), log_end, ticket_id)


def key_of(seen: Sighting) -> Key:
    """Return the row that it is compared with."""
    return Key(seen.entity, "t1", seen.id)


def judge(rows: Rows, seen: Sighting) -> drift.Verdict:
    """Compare with the row there is."""
    return compare("t1", seen, rows.get(key_of(seen)))


def observe(rows: Rows, seen: Sighting, position: int) -> LogEntry:
    """Append the observation at a position and apply it."""
    event, _ = drift.observation("t1", seen, rows.get(key_of(seen)), received_at=seen.as_of + timedelta(seconds=9))
    appended = LogEntry(position=position, event=event)
    folded([appended], rows)
    return appended


def campaign(**shown: object) -> CampaignPayload:
    """Return a payload about campaign p1."""
    return CampaignPayload(campaign=Campaign(id="p1", **shown))  # type: ignore[arg-type]


def contact(**shown: object) -> ContactPayload:
    """Return a payload about contact c1."""
    return ContactPayload(contact=Contact(id="c1", **shown))  # type: ignore[arg-type]


# Random sightings over random histories.


def _seen(entity: Entity, payload: Any, seconds: int, log_end: int, *, there: bool) -> Sighting:
    shown = msgspec.structs.replace(getattr(payload, entity), gone=UNSET)
    if not there:
        return drift.absence(entity, shown.id, as_of=at(seconds), log_end=log_end)
    return Sighting(entity, shown.id, msgspec.structs.replace(payload, **{entity: shown}), at(seconds), log_end)


SIGHTING = st.sampled_from(ENTITIES).flatmap(
    lambda entity: st.builds(
        _seen,
        st.just(entity),
        PAYLOADS[entity],
        st.integers(0, 5),
        st.integers(0, 14),
        there=st.sampled_from([True] * 4 + [False]),
    )
)


@given(history=HISTORY, seen=SIGHTING)
def test_what_is_found_changes_the_row_and_is_found_no_more(history: History, seen: Sighting) -> None:
    """After its observation the same sighting is the same, and so is a later one of an unchanged world.

    But where the row holds what is newer than the sighting, and is in doubt, the sighting cannot settle that doubt.
    Then one later look ends it.
    """
    rows = folded(numbered(history))
    before, verdict = rows.get(key_of(seen)), judge(rows, seen)
    if not isinstance(verdict, Finding):
        return
    assert (verdict.entity, verdict.id) == (seen.entity, seen.id)
    assert verdict.kind in get_args(DriftKind)
    appended = observe(rows, seen, LATER)
    after = rows[key_of(seen)]
    assert after != before
    later = replace(seen, as_of=at(1000), log_end=LATER)
    if judge(rows, seen) == "waits":
        assert after.doubtful
        assert any(version.time >= to_micros(seen.as_of) for version in after.versions.values())
        assert isinstance(judge(rows, later), Finding)
        observe(rows, later, LATER + 1)
        assert judge(rows, replace(later, log_end=LATER + 1)) == "same"
        return
    assert judge(rows, seen) == "same"
    assert judge(rows, later) == "same"
    # Whatever is found next has another id.
    assert drift.position(after) == LATER or {*verdict.fields} <= {"ack"}
    assert decode(appended.event) is not None


@given(history=HISTORY, seen=SIGHTING)
def test_what_is_the_same_is_the_same_again(history: History, seen: Sighting) -> None:
    """An observation nobody needs changes no compared value, and settles no doubt."""
    rows = folded(numbered(history))
    if judge(rows, seen) != "same":
        return
    before = rows.get(key_of(seen))
    observe(rows, seen, LATER)
    # Empty is as good as null where values are compared; to the fold they are two, and a doubt where arrival decided.
    new_doubt = rows[key_of(seen)].doubtful and not (before is not None and before.doubtful)
    assert judge(rows, seen) == "same" or (judge(rows, seen) == "waits" and new_doubt)
    if before is not None and before.doubtful and before.values["gone"] is not True:
        assert rows[key_of(seen)].doubtful


@given(history=HISTORY, seen=SIGHTING)
def test_it_waits_just_where_the_row_is_newer_than_what_was_seen(history: History, seen: Sighting) -> None:
    """An event behind the log's end then, or a time not before the page's; read after all of them it never waits."""
    rows = folded(numbered(history))
    row = rows.get(key_of(seen))
    if judge(rows, seen) == "waits":
        assert row is not None
        assert any(v.latest > seen.log_end or v.time >= to_micros(seen.as_of) for v in row.versions.values())
    assert judge(rows, replace(seen, as_of=at(1000), log_end=LATER)) != "waits"


@given(history=HISTORY, seen=SIGHTING, late=HISTORY)
def test_a_late_webhook_comes_to_the_same_before_and_after_the_observation(
    history: History, seen: Sighting, late: History
) -> None:
    """Which of them the log got first makes no difference but where doubt is marked."""
    known = numbered(history)
    rows = folded(known)
    event, _ = drift.observation("t1", seen, rows.get(key_of(seen)), received_at=at(9))
    told = [entry(50 + number, *one[:3], received=one[3]) for number, one in enumerate(late)]
    before = folded([*known, *told, LogEntry(position=LATER, event=event)])
    after = folded([*known, LogEntry(position=20, event=event), *told])
    assert_same_but_for_doubt(before, after)


@given(history=HISTORY, seen=SIGHTING)
def test_an_observation_lowers_no_ack(history: History, seen: Sighting) -> None:
    """The ack of a message is the same or higher behind any sighting."""
    rows = folded(numbered(history))
    before = dict(rows)
    observe(rows, seen, LATER)
    for key, row in before.items():
        if key.table == "message":
            assert (rows[key].values["ack"] or 0) >= (row.values["ack"] or 0)  # type: ignore[operator]


# A world that agrees with itself: what two runs over it do.

URL = st.sampled_from(
    [None, "", "https://x/1.jpg?sig=1", "https://x/1.jpg?sig=2", "https://x/2.jpg", "https://x/?id=1"]
)
_contacts: st.SearchStrategy[Any] = partial(
    Contact,
    {"id": CONTACT_ID},
    name=WORD,
    number=WORD,
    email=WORD,
    is_group=FLAG,
    profile_pic_url=URL,
    created_at=TIME,
    updated_at=TIME,
)
_tickets: st.SearchStrategy[Any] = partial(
    Ticket,
    {"id": st.sampled_from(["k1", "k2"])},
    status=WORD,
    user=REF,
    queue=REF,
    created_at=TIME,
    updated_at=TIME,
    contact_id=CONTACT_ID,
    last_message=WORD,
)
_campaigns: st.SearchStrategy[Any] = partial(
    Campaign, {"id": st.just("p1")}, name=WORD, status=WORD, message=WORD, sent_count=st.integers(0, 2), updated_at=TIME
)
_messages: st.SearchStrategy[Any] = partial(
    Message,
    {"id": st.sampled_from(["m1", "m2"]), "from_me": st.booleans()},
    body=WORD,
    ack=st.integers(-1, 5),
    media_url=URL,
    deleted=FLAG,
    created_at=TIME,
)
_world = st.fixed_dictionaries(
    {
        "contacts": st.lists(_contacts, unique_by=lambda one: one.id),
        "tickets": st.lists(_tickets, unique_by=lambda one: one.id),
        "campaigns": st.lists(_campaigns, max_size=1),
        "messages": st.lists(_messages, unique_by=lambda one: one.id),
    }
)


def _shown(world: dict[str, list[Any]], seconds: float, log_end: int) -> list[Sighting]:
    """Return what a run sees: everything there is, and the absence of everything else."""
    contacts = {one.id: one for one in world["contacts"]}
    payloads: list[Payload] = [ContactPayload(contact=one) for one in world["contacts"]]
    for one in world["tickets"]:
        nested = contacts.get(one.contact_id)
        brief = UNSET if nested is None else Contact(id=nested.id, name=nested.name, number=nested.number)
        payloads.append(TicketPayload(ticket=msgspec.structs.replace(one, contact=brief)))
    payloads += [CampaignPayload(campaign=one) for one in world["campaigns"]]
    payloads += [MessagePayload(message=one) for one in world["messages"]]
    return [
        sighting(payload, seconds, log_end, "k1" if isinstance(payload, MessagePayload) else None)
        for payload in payloads
    ]


def _reconcile(rows: Rows, world: dict[str, list[Any]], seconds: float, positions: Iterator[int]) -> list[Finding]:
    """Do what a run does, in its order, and return what it found."""
    found = []
    shown = {key_of(one): one for one in _shown(world, seconds, 10_000)}
    absent = [
        drift.absence(key.table, key.id, as_of=at(seconds), log_end=10_000)
        for key in rows
        if key.table != "message_revision" and key not in shown
    ]
    for one in [*shown.values(), *absent]:
        verdict = judge(rows, one)
        assert verdict != "waits"
        if isinstance(verdict, Finding):
            found.append(verdict)
            observe(rows, one, next(positions))
    return found


@given(history=HISTORY, world=_world)
def test_a_second_run_of_an_unchanged_world_finds_nothing(history: History, world: dict[str, list[Any]]) -> None:
    """Whatever was missed, doubled or doubtful: one run mends all of it, the next has nothing to do."""
    rows = folded(numbered(history))
    positions = itertools.count(LATER)
    _reconcile(rows, world, 100, positions)
    stubs = _reconcile(rows, world, 200, positions)
    # A contact that only a ticket names is a row of that ticket's making, so its absence shows in the second run.
    assert {one.kind for one in stubs} <= {"extra"}
    assert _reconcile(rows, world, 300, positions) == []
    for one in _shown(world, 300, LATER):
        row = rows[key_of(one)]
        assert row.known
        assert not is_gone(row.values["gone"], row.versions)
        for name in COMPARED[one.entity]:
            assert_held(row, name, getattr(getattr(one.payload, one.entity), name, UNSET))


def assert_held(row: Row, name: str, shown: Any) -> None:
    """Check that a field that was shown is held, as it was shown: a URL as it was signed at some time."""
    if shown is UNSET or name == "gone":
        return
    if isinstance(shown, Ref):
        assert row.values[f"{name}_id"] == shown.id
        assert row.values[f"{name}_name"] == shown.name or not shown.name
        return
    held = tuple(row.values[column] for column in GROUPS[name]) if name in GROUPS else row.values[name]
    if shown is None:
        assert held in (None, "", False, 0, (None, None))
    elif name in ("profile_pic_url", "media_url") and shown:
        assert isinstance(held, str)
        assert held.split("?sig")[0] == shown.split("?sig")[0]
    else:
        assert held == (to_micros(shown) if isinstance(shown, datetime) else shown)


# The id.


@given(history=HISTORY, seen=SIGHTING, extra=st.dictionaries(WORD.map(str), WORD))
def test_the_id_knows_only_what_is_compared(history: History, seen: Sighting, extra: dict[str, Any]) -> None:
    """URLs that are signed anew and unknown fields, another page's time or another list make no other id."""
    row = folded(numbered(history)).get(key_of(seen))
    url = {"message": "media_url", "contact": "profile_pic_url"}.get(seen.entity)

    def signed(by: str) -> Payload:
        changes: dict[str, Any] = {"extra": extra} | ({url: f"https://{by}.example/1.jpg?sig={by}"} if url else {})
        changed = msgspec.structs.replace(getattr(seen.payload, seen.entity), **changes)
        return msgspec.structs.replace(seen.payload, **{seen.entity: changed})

    seen, other = replace(seen, payload=signed("a")), signed("b")
    one, _ = drift.observation("t1", seen, row, received_at=at(9))
    two, _ = drift.observation(
        "t1", replace(seen, payload=other, as_of=at(77), ticket_id="k9"), row, received_at=at(88)
    )
    assert one.id == two.id
    assert one.id != drift.observation("t2", seen, row, received_at=at(9))[0].id
    if row is not None and row.versions:
        # Further than anything that was heard, also than what a register heard and did not take.
        later = drift.position(row) + 1
        versions = {name: Version(v.time, v.rank, later, v.doubtful) for name, v in row.versions.items()}
        moved = Row(known=row.known, values=row.values, versions=versions)
        assert one.id != drift.observation("t1", seen, moved, received_at=at(9))[0].id


@given(history=HISTORY, first=SIGHTING, second=SIGHTING)
def test_two_observations_that_say_something_else_have_two_ids(
    history: History, first: Sighting, second: Sighting
) -> None:
    """Of one row, two sightings that find different values are never taken for one another."""
    rows = folded(numbered(history))
    row = rows.get(key_of(first))
    if key_of(first) != key_of(second):
        return
    one, _ = drift.observation("t1", first, row, received_at=at(9))
    two, _ = drift.observation("t1", second, row, received_at=at(9))
    observe(rows, replace(first, as_of=at(500)), LATER)
    differs = judge(rows, replace(second, as_of=at(600), log_end=LATER))
    # An ack is not lowered, so a lower one is no difference.
    if isinstance(differs, Finding) and differs.kind in {"stale", "extra"} and "gone" not in differs.fields:
        assert one.id != two.id


VECTORS = [
    (
        sighting(ticket(status="closed", channel="whatsapp", user=Ref(id="u1", name="Ana"), queue=None)),
        0,
        '["ticket.observed","k1",0,{"channel":"whatsapp","queue":[null,null],"status":"closed","user":["u1","Ana"]}]',
        "00000000-0000-8499-936a-de0dd4ff8b27",
    ),
    (
        sighting(contact(name="João", extra_info=[{"value": "1", "name": "NIF"}])),
        7,
        r'["contact.observed","c1",7,{"extra_info":["{\"name\":\"NIF\",\"value\":\"1\"}"],"name":"João"}]',
        "00000000-0000-8606-8d6f-b9931a4a675b",
    ),
    (
        sighting(message(body="Olá", from_me=True, ack=3), ticket_id="k1"),
        12,
        '["message.observed","m1",12,{"ack":3,"body":"Olá","from_me":true}]',
        "00000000-0000-8942-ac99-693b332b93c6",
    ),
    (
        sighting(campaign(status="finished", sent_count=342, failed_count=0, scheduled_at=at(0))),
        1 << 40,
        (
            '["campaign.observed","p1",1099511627776,'
            '{"failed_count":null,"scheduled_at":1777636800000000,"sent_count":342,"status":"finished"}]'
        ),
        "00000000-0000-8409-b2d5-2e3a97333d28",
    ),
    (
        drift.absence("ticket", "k1", as_of=at(10), log_end=9),
        9,
        '["ticket.observed","k1",9,{"gone":true}]',
        "00000000-0000-81a7-943b-91a842f99dbe",
    ),
]


@pytest.mark.parametrize(("seen", "at_position", "what", "expected"), VECTORS)
def test_the_id_is_frozen(seen: Sighting, at_position: int, what: str, expected: str) -> None:
    """The id is that of these very bytes, for ever: a change here would append every repair of a crashed run twice."""
    row = None
    if at_position:
        versions = {"created_at": Version(0, 1, at_position, doubtful=False)}
        row = Row(known=True, values=dict.fromkeys(COLUMNS[seen.entity]), versions=versions)
    event, raw = drift.observation("t1", seen, row, received_at=at(11))
    assert str(event.id) == expected
    # By openssl: printf 't1\\0%s' "$what" | openssl dgst -sha256
    assert event.id == event_id("t1", what.encode(), None)
    assert msgspec.json.decode(raw)["position"] == at_position


def test_an_observation_is_an_event_with_its_document() -> None:
    """What is appended: origin, type, ids and times of the event, and a raw document that holds the same data."""
    seen = sighting(message(body="Olá"), 10, ticket_id="k1")
    event, raw = drift.observation("t1", seen, None, received_at=at(12.5))
    assert (event.type, event.tenant, event.origin) == (T.MESSAGE_OBSERVED, "t1", "backfill")
    assert (event.occurred_at, event.received_at) == (at(10), at(12.5))
    assert (event.subject, event.ticket_id, event.contact_id, event.message_id) == ("m1", "k1", None, "m1")
    assert event.data == b'{"message":{"id":"m1","body":"Ol\xc3\xa1"}}'
    assert raw == (
        b'{"event":"message.observed","tenantId":"t1","timestamp":"2026-05-01T12:00:10Z","position":0,'
        b'"data":' + event.data + b"}"
    )
    own = drift.observation("t1", sighting(message(ticket_id="k2"), ticket_id="k1"), None, received_at=at(11))[0]
    assert own.ticket_id == "k2"
    named = drift.observation("t1", sighting(ticket(contact=Contact(id="c1"))), None, received_at=at(11))[0]
    assert (named.subject, named.ticket_id, named.contact_id, named.message_id) == ("k1", "k1", "c1", None)


def test_the_same_change_missed_twice_is_two_observations() -> None:
    """Closed (missed), opened again, closed (missed): the row moved in between, so the second has an id of its own."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open"), 0)))
    first = observe(rows, sighting(ticket(status="closed"), 10), 2)
    folded([entry(3, T.TICKET_UPDATED, ticket(status="open"), 20)], rows)
    assert isinstance(judge(rows, sighting(ticket(status="closed"), 30)), Finding)
    second = observe(rows, sighting(ticket(status="closed"), 30), 4)
    assert rows[TICKET].values["status"] == "closed"
    assert first.event.id != second.event.id


def test_what_is_about_another_thing_is_refused() -> None:
    """A sighting of one id with a payload of another compares nothing."""
    for payload in (ticket(), TicketPayload(ticket=Ticket(status="open"))):
        with pytest.raises(InvalidEventError, match="no_id"):
            compare("t1", Sighting("ticket", "k2", payload, at(1), 0), None)


# The vendor's shapes.

PAGE: dict[str, Any] = {
    "list": {
        "id": "k1",
        "status": "open",
        "channel": "whatsapp",
        "contact": {"id": "c1", "name": "João Silva", "number": "351910000000"},
        "lastMessage": "Olá, preciso de ajuda",
        "createdAt": "2026-01-15T10:30:00Z",
    },
    "detail": {
        "id": "k1",
        "status": "open",
        "channel": "whatsapp",
        "contact": {"id": "c1", "name": "João Silva", "number": "351910000000"},
        "user": {"id": "u1", "name": "Agente"},
        "queue": {"id": "q1", "name": "Suporte"},
        "createdAt": "2026-01-15T10:30:00Z",
        "updatedAt": "2026-01-15T11:00:00Z",
    },
    "contacts": {
        "id": "c1",
        "name": "João Silva",
        "number": "351910000000",
        "email": "joao@exemplo.pt",
        "profilePicUrl": "https://media.example/1",
        "isGroup": False,
        "createdAt": "2026-01-10T09:00:00Z",
    },
    "contact": {
        "id": "c1",
        "name": "João Silva",
        "number": "351910000000",
        "email": "joao@exemplo.pt",
        "extraInfo": [{"name": "NIF", "value": "123456789"}],
        "createdAt": "2026-01-10T09:00:00Z",
    },
    "message": {
        "id": "m1",
        "body": "Olá, preciso de ajuda",
        "fromMe": False,
        "mediaType": None,
        "mediaUrl": None,
        "ack": 3,
        "createdAt": "2026-01-15T10:30:00Z",
    },
    "campaign": {
        "id": "p1",
        "name": "Promoção Verão 2026",
        "status": "finished",
        "scheduledAt": "2026-06-01T09:00:00Z",
        "sentCount": 342,
        "failedCount": 3,
        "createdAt": "2026-05-20T10:00:00Z",
    },
}


def shown_as(page: str, /, **changes: object) -> Payload:
    """Return the vendor's example, changed, as our client reads it."""
    source = {**PAGE[page], **changes}
    match page:
        case "list" | "detail":
            return TicketPayload(ticket=fields.read_ticket(source, {}))
        case "contacts" | "contact":
            return ContactPayload(contact=fields.read_contact(source, {}))
        case "message":
            return MessagePayload(message=fields.read_message(source, {}))
        case _:
            return CampaignPayload(campaign=fields.read_campaign(source, {}))


TOLD: dict[str, tuple[EventType, Payload]] = {
    "list": (T.TICKET_UPDATED, shown_as("detail", lastMessage="Another one, of which the list knows more")),
    "detail": (T.TICKET_UPDATED, shown_as("detail", lastMessage="Olá", aiAgentId="a1")),
    "contacts": (T.CONTACT_UPDATED, shown_as("contacts", profilePicUrl="https://media.example/1?sig=2", extraInfo=[])),
    "contact": (T.CONTACT_UPDATED, shown_as("contact", isGroup=True, profilePicUrl="https://media.example/2")),
    "message": (T.MESSAGE_RECEIVED, shown_as("message", ack=None)),
    "campaign": (T.CAMPAIGN_FINISHED, shown_as("campaign", message="Olá {{name}}")),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_the_webhooks_told_is_what_the_vendor_shows(name: str) -> None:
    """Each list and each detail shows less than the webhook did: what it leaves out is no difference."""
    rows = folded(log((*TOLD[name], 5)))
    shown = shown_as(name)
    if isinstance(shown, TicketPayload):
        shown = msgspec.structs.replace(shown, ticket=msgspec.structs.replace(shown.ticket, last_message=UNSET))
    assert judge(rows, sighting(shown)) == "same"


@pytest.mark.parametrize(
    ("name", "changes", "differing"),
    [
        ("list", {"status": "closed", "lastMessage": "Adeus"}, ("status", "last_message")),
        ("list", {"contact": {"id": "c2", "name": "x"}}, ("contact_id", "last_message")),
        ("detail", {"user": {"id": "u2", "name": "Outra"}}, ("user",)),
        ("detail", {"user": None, "queue": {"id": "q2", "name": "Vendas"}}, ("user", "queue")),
        ("detail", {"aiAgentId": "a2", "channel": "sms"}, ("channel", "ai_agent_id")),
        ("contacts", {"name": "João M.", "email": None, "isGroup": True}, ("name", "email", "is_group")),
        ("contact", {"extraInfo": [{"name": "NIF", "value": "2"}]}, ("extra_info",)),
        ("contact", {"extraInfo": None}, ("extra_info",)),
        ("message", {"body": "Olá!", "mediaType": "image"}, ("body", "media_type")),
        ("message", {"isDeleted": True, "quotedMsgId": "m0"}, ("deleted", "quoted_message_id")),
        ("campaign", {"status": "cancelled"}, ("status",)),
    ],
)
def test_what_differs_is_named(name: str, changes: dict[str, Any], differing: tuple[str, ...]) -> None:
    """A finding names the registers that differ, and its observation brings each of them."""
    rows = folded(log((*TOLD[name], 5)))
    seen = sighting(shown_as(name, **changes))
    verdict = judge(rows, seen)
    assert isinstance(verdict, Finding)
    assert verdict.fields == differing
    observe(rows, seen, 2)
    assert judge(rows, seen) == "same"


def test_every_compared_register_is_one() -> None:
    """No name in the table is misspelt: each is a column or a group of its row, and a field of the vendor's."""
    for table, names in COMPARED.items():
        assert set(names) <= {*COLUMNS[table], *GROUPS}
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("shown", "differs"),
    [
        ({}, False),
        ({"contact": Contact(id="c1", name="João")}, False),
        ({"contact_id": "c1"}, False),
        ({"contact_id": "c1", "contact": None}, False),
        ({"contact": Contact(name="João")}, False),
        ({"contact": Contact(id="c2")}, True),
        ({"contact_id": "c2", "contact": Contact(id="c1")}, True),
        ({"contact": None}, True),
        ({"contact_id": None}, True),
    ],
)
def test_a_tickets_contact_is_compared_wherever_it_is_shown(shown: dict[str, Any], *, differs: bool) -> None:
    """By id or nested; null says that there is none, and a contact without its id says nothing."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open", contact_id="c1"), 0)))
    verdict = judge(rows, sighting(ticket(status="open", **shown)))
    assert verdict == (Finding("ticket", "k1", "stale", ("contact_id",), 10.0) if differs else "same")


@pytest.mark.parametrize(
    ("held", "shown", "differs"),
    [
        (Ref(id="1", name="Ana"), Ref(id="1", name="Ana"), False),
        (Ref(id="1", name="Ana"), Ref(id="1"), False),
        (Ref(id="1"), Ref(id="1", name="Ana"), True),
        (Ref(id="1", name="Ana"), Ref(id="1", name=""), False),
        (Ref(id="1", name="Ana"), Ref(id="1", name="Ana B"), True),
        (Ref(id="1", name="Ana"), Ref(id="2", name="Ana"), True),
        (Ref(id="1", name="Ana"), None, True),
        (Ref(id="1", name="Ana"), Ref(), False),
        (None, None, False),
        (None, Ref(id="1"), True),
        (UNSET, None, False),
        (UNSET, Ref(id="1", name="Ana"), True),
        (UNSET, Ref(name="Ana"), False),
    ],
)
def test_agent_and_queue_are_compared_by_id(held: Any, shown: Any, *, differs: bool) -> None:
    """The id decides; a name that is shown is a difference also where none is held, an absent one says nothing."""
    for name in GROUPS:
        rows = folded(log((T.TICKET_CREATED, ticket(**{name: held}), 0)))
        verdict = judge(rows, sighting(ticket(**{name: shown})))
        assert (verdict != "same") == differs
        assert not differs or (isinstance(verdict, Finding) and verdict.fields == (name,))


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        ("email", (None, "")),
        ("is_group", (None, False)),
        ("extra_info", (None, [])),
    ],
)
def test_nothing_held_is_no_empty_value(name: str, nothing: tuple[Any, ...]) -> None:
    """Null and what nobody ever told are a difference from an empty text or list, false and zero, of which no webhook
    need tell; an empty value is none from null.
    """
    something = {"email": "a@b.pt", "is_group": True, "extra_info": [{"name": "x", "value": "y"}]}[name]
    for held, shown in itertools.product((UNSET, *nothing), repeat=2):
        rows = folded(log((T.CONTACT_UPDATED, contact(**{name: held}), 0)))
        verdict = judge(rows, sighting(contact(**{name: shown})))
        if held in (UNSET, None) and shown not in (UNSET, None):
            assert verdict == Finding("contact", "c1", "unannounced", (name,), None)
        else:
            assert verdict == "same"
    for empty in nothing:
        full = folded(log((T.CONTACT_UPDATED, contact(**{name: something}), 0)))
        assert isinstance(judge(full, sighting(contact(**{name: empty}))), Finding)
        rows = folded(log((T.CONTACT_UPDATED, contact(**{name: empty}), 0)))
        assert isinstance(judge(rows, sighting(contact(**{name: something}))), Finding)


def test_further_fields_are_compared_by_name_and_value() -> None:
    """Another order, or columns of the vendor's table beside name and value, are no difference."""
    held = [
        {"id": 5, "name": "NIF", "value": "1", "contactId": 9},
        {"id": 6, "name": "Empresa", "value": "Acme"},
        "odd",
    ]
    shown = ["odd", {"name": "Empresa", "value": "Acme"}, {"value": "1", "name": "NIF"}]
    rows = folded(log((T.CONTACT_UPDATED, contact(extra_info=held), 0)))
    assert judge(rows, sighting(contact(extra_info=shown))) == "same"
    assert isinstance(judge(rows, sighting(contact(extra_info=shown[1:]))), Finding)
    assert isinstance(judge(rows, sighting(contact(extra_info=[*shown, shown[0]]))), Finding)


@pytest.mark.parametrize(
    ("held", "shown", "kind"),
    [
        ("https://x/1.jpg?sig=1", "https://x/1.jpg?sig=2", None),
        ("https://x/1.jpg", "https://x/1.jpg#2", None),
        ("https://cdn1/p/1.jpg?sig=1", "https://cdn2/p/1.jpg?sig=2", None),
        ("https://x/1.jpg?sig=1", "https://x/2.jpg?sig=1", "stale"),
        ("https://x/?id=1", "https://x/?id=2", "stale"),
        ("http://[", "http://]", "stale"),
        ("https://x/1.jpg", None, "stale"),
        ("https://x/1.jpg", "", "stale"),
        ("", None, None),
        (None, "https://x/1.jpg", "stale"),
        (UNSET, "https://x/1.jpg", "unannounced"),
        (UNSET, "", "unannounced"),
        (UNSET, None, None),
        ("https://x/1.jpg", UNSET, None),
    ],
)
def test_a_url_that_is_signed_anew_is_the_same_one(held: Any, shown: Any, kind: DriftKind | None) -> None:
    """Its path is what it is of. Another path, and one where there was none or none where there was one, is mended."""
    rows = folded(log((T.CONTACT_UPDATED, contact(name="Ana", profile_pic_url=held), 1)))
    seen = sighting(contact(name="Ana", profile_pic_url=shown))
    verdict = judge(rows, seen)
    if kind is None:
        assert verdict == "same"
        return
    assert isinstance(verdict, Finding)
    assert (verdict.kind, verdict.fields) == (kind, ("profile_pic_url",))
    observe(rows, seen, 2)
    assert rows[CONTACT].values["profile_pic_url"] == shown


@pytest.mark.parametrize(("held", "shown"), [(UNSET, "https://x/1"), (None, "https://x/1"), ("https://x/1", None)])
def test_the_url_of_media_is_mended_quietly(held: Any, shown: Any) -> None:
    """The vendor's own example of a webhook has none: one that a list shows, or shows no more, is no sign of a loss."""
    rows = folded(log((T.MESSAGE_RECEIVED, message(body="x", media_url=held), 1)))
    seen = sighting(message(body="x", media_url=shown))
    assert judge(rows, seen) == Finding("message", "m1", "unannounced", ("media_url",), None)
    observe(rows, seen, 2)
    assert rows[MESSAGE].values["media_url"] == shown


@pytest.mark.parametrize(
    ("held", "shown", "differs"),
    [
        (at(5), at(5), False),
        (at(5), at(6), True),
        (at(5.25), at(5.75), True),
        (at(5.75), at(5), False),
        (at(6), at(5.75), False),
        (at(5), at(6.25), True),
        (UNSET, at(5), True),
        (None, at(5), True),
        (at(5), None, True),
        (at(5), UNSET, False),
    ],
)
@pytest.mark.parametrize("name", ["created_at", "updated_at"])
def test_times_are_compared_and_mended_quietly(name: str, held: Any, shown: Any, *, differs: bool) -> None:
    """A ticket moves in time with each message, of which no webhook of it tells. Cut to seconds it is the same time."""
    rows = folded([entry(1, T.TICKET_UPDATED, ticket(status="open", **{name: held}), 1, received=1)])
    seen = sighting(ticket(status="open", **{name: shown}))
    assert judge(rows, seen) == (Finding("ticket", "k1", "unannounced", (name,), None) if differs else "same")
    observe(rows, seen, 2)
    assert judge(rows, seen) == "same"
    assert judge(rows, replace(seen, as_of=at(1000))) == "same"


def test_a_time_alone_makes_nothing_wait() -> None:
    """A webhook came after the answer and moved the ticket's time: nothing is read again for it; the next run sees."""
    told = ticket(status="open", updated_at=at(20))
    rows = folded(log((T.TICKET_CREATED, ticket(status="open", updated_at=at(0)), 0), (T.TICKET_UPDATED, told, 20)))
    assert judge(rows, sighting(ticket(status="open", updated_at=at(0)), 10, log_end=1)) == "same"
    assert judge(rows, sighting(ticket(status="closed", updated_at=at(0)), 10, log_end=1)) == "waits"


def test_a_message_without_a_place_gets_one_from_a_list() -> None:
    """Its webhook named no ticket: where a list shows it is a difference, once, and no other list changes it."""
    rows = folded(log((T.MESSAGE_SENT, message(body="x"), 1)))
    seen = sighting(message(body="x", contact_id="c1"), ticket_id="k1")
    assert judge(rows, seen) == Finding("message", "m1", "unannounced", ("ticket_id", "contact_id"), None)
    observe(rows, seen, 2)
    assert (rows[MESSAGE].values["ticket_id"], rows[MESSAGE].values["contact_id"]) == ("k1", "c1")
    assert judge(rows, replace(seen, ticket_id="k2", as_of=at(20))) == "same"


@pytest.mark.parametrize(
    ("held", "shown", "explained", "kind"),
    [
        (UNSET, "Olá", True, "unannounced"),
        ("", "Olá", True, "unannounced"),
        ("Olá", "Adeus", True, "unannounced"),
        ("Olá", "Adeus", False, "stale"),
        (None, "Olá", False, "stale"),
        ("Olá", None, False, "unannounced"),
        ("uma\nduas", "uma duas", False, None),
        ("O que se passou desde a semana passada", "O que se passou desde…", False, None),
        ("Olá", UNSET, False, None),
    ],
)
def test_a_tickets_last_message_is_what_the_vendor_shows(
    held: Any, shown: Any, kind: DriftKind | None, *, explained: bool
) -> None:
    """It is compared with what the vendor told before; where a message that is held explains it, nothing was missed."""
    rows = folded(log((T.TICKET_UPDATED, ticket(status="open", last_message=held), 1)))
    seen = replace(sighting(ticket(status="open", last_message=shown)), explained=explained)
    verdict = judge(rows, seen)
    if kind is None:
        assert verdict == "same"
        return
    assert isinstance(verdict, Finding)
    assert (verdict.kind, verdict.fields) == (kind, ("last_message",))
    observe(rows, seen, 2)
    assert rows[TICKET].values["last_message"] == shown
    assert judge(rows, seen) == "same"


# Messages.


@pytest.mark.parametrize(
    ("from_me", "held", "shown", "found"),
    [
        (True, 2, 3, True),
        (True, None, 1, True),
        (True, 3, 3, False),
        (True, 4, 3, False),
        (True, 3, 0, False),
        (True, None, 0, False),
        (True, None, -1, False),
        (True, 2, 99, False),
        (True, 2, None, False),
        (True, 2, UNSET, False),
        (False, None, 3, False),
        (False, 3, 4, False),
        (None, 2, 3, False),
    ],
)
def test_acks_of_ours_are_repaired_upwards_only(*, from_me: bool | None, held: Any, shown: Any, found: bool) -> None:
    """Those of a contact's messages mean nothing dependable; 0 and -1 in a list are a column's default."""
    event_type = T.MESSAGE_SENT if from_me else T.MESSAGE_RECEIVED
    rows = folded(log((event_type, message(body="x", from_me=from_me, ack=held), 1)))
    seen = sighting(message(body="x", from_me=from_me, ack=shown))
    assert judge(rows, seen) == (Finding("message", "m1", "stale", ("ack",), None) if found else "same")
    # Where the list does not say whose it is, what we hold counts.
    assert (judge(rows, sighting(message(body="x", ack=shown))) != "same") == found
    observe(rows, seen, 2)
    assert judge(rows, seen) == "same"
    assert rows[MESSAGE].values["ack"] == max((one for one in (held, shown) if one in LEVELS), default=None)
    assert rows[MESSAGE].values["failed_at"] is None


def test_a_messages_place_is_taken_from_a_list_only_where_nobody_told() -> None:
    """Its ticket and contact are no difference; alone they are kept, and a late webhook's stand against them."""
    rows = folded(log((T.MESSAGE_RECEIVED, message(body="x", ticket_id="k1", contact_id="c1"), 1)))
    assert judge(rows, sighting(message(body="x", contact_id="c2"), ticket_id="k2")) == "same"
    found: Rows = {}
    observe(found, sighting(message(body="x"), 10, ticket_id="k2"), 1)
    assert found[MESSAGE].values["ticket_id"] == "k2"
    before = found[MESSAGE]
    folded([entry(2, T.MESSAGE_RECEIVED, message(body="x", ticket_id="k1"), 5)], found)
    assert found[MESSAGE].values == {**before.values, "ticket_id": "k1", "from_me": False}
    assert judge(found, sighting(message(body="x"), 20, ticket_id="k2")) == "same"


def test_an_edit_that_was_missed_is_one_more_revision() -> None:
    """The list shows another text: both wordings are kept, and the newer one stands."""
    rows = folded(log((T.MESSAGE_RECEIVED, message(body="one", media_type=None), 1)))
    seen = sighting(message(body="two", media_type=None), ticket_id="k1")
    assert isinstance(judge(rows, seen), Finding)
    observe(rows, seen, 2)
    wordings = fold.revisions(row.values for key, row in rows.items() if key.table == "message_revision")
    assert [one.content["body"] for one in wordings] == ["one", "two"]
    assert rows[MESSAGE].values["body"] == "two"


# Kinds and ages.


def test_what_was_never_told_is_missed_and_as_old_as_it_is() -> None:
    """Nothing held, or a stub that others named: missed, since it was made; unknown where the vendor does not say."""
    stub = folded(log((T.MESSAGE_RECEIVED, message(ticket_id="k1"), 1)))
    acked = folded(log((T.MESSAGE_ACK, message(ack=3), 1)))
    for rows in ({}, stub):
        verdict = judge(rows, sighting(ticket(status="open", created_at=at(-50)), 10))
        assert verdict == Finding("ticket", "k1", "missed", ("status", "created_at"), 60.0)
    for held in ({}, acked):
        assert judge(held, sighting(message(body="x"))) == Finding("message", "m1", "missed", ("body",), None)
    assert judge({}, sighting(ticket())) == Finding("ticket", "k1", "missed", (), None)


def test_what_is_stale_is_as_old_as_its_change() -> None:
    """By the vendor's own time of the change, else by when we were last told of the field, the oldest one first."""
    rows = folded(log((T.TICKET_CREATED, ticket(channel="sms"), 1), (T.TICKET_UPDATED, ticket(status="open"), 4)))
    both = sighting(ticket(status="closed", channel="whatsapp"), 10)
    assert judge(rows, both) == Finding("ticket", "k1", "stale", ("status", "channel"), 9.0)
    timed = sighting(ticket(status="closed", updated_at=at(8.5)), 10)
    assert judge(rows, timed) == Finding("ticket", "k1", "stale", ("status", "updated_at"), 1.5)
    ahead = sighting(ticket(status="closed", updated_at=at(700)), 10)
    assert judge(rows, ahead) == Finding("ticket", "k1", "stale", ("status", "updated_at"), 0.0)
    never_told = sighting(ticket(ai_agent_id="a"), 10)
    assert judge(rows, never_told) == Finding("ticket", "k1", "stale", ("ai_agent_id",), None)


@pytest.mark.parametrize(
    ("held", "shown", "kind"),
    [
        (None, {"status": "finished"}, "missed"),
        (None, {"status": "running"}, "unannounced"),
        (None, {"status": "cancelled"}, "unannounced"),
        (None, {}, "unannounced"),
        ({"status": "running"}, {"status": "finished", "sent_count": 9}, "stale"),
        ({"status": "pending"}, {"status": "running"}, "unannounced"),
        ({"status": "finished"}, {"status": "running"}, "unannounced"),
        ({"status": "finished", "sent_count": 1}, {"status": "finished", "sent_count": 2}, "unannounced"),
        ({"status": "finished"}, {"status": "finished", "name": "x", "scheduled_at": at(0)}, "unannounced"),
    ],
)
def test_of_a_campaign_only_its_end_is_announced(
    held: dict[str, Any] | None, shown: dict[str, Any], kind: DriftKind
) -> None:
    """What no webhook tells of is no fault of delivery: it is repaired all the same, and counted by itself."""
    rows: Rows = {} if held is None else folded(log((T.CAMPAIGN_FINISHED, campaign(**held), 0)))
    seen = sighting(campaign(**shown))
    verdict = judge(rows, seen)
    assert isinstance(verdict, Finding)
    assert verdict.kind == kind
    observe(rows, seen, 2)
    assert judge(rows, seen) == "same"


@pytest.mark.parametrize(
    ("age_s", "bucket"),
    [
        (None, "unknown"),
        (0.0, "under_1h"),
        (3599.9, "under_1h"),
        (3600.0, "under_1d"),
        (86_400.0, "under_7d"),
        (604_799.0, "under_7d"),
        (604_800.0, "older"),
        (1e12, "older"),
    ],
)
def test_each_age_has_its_bucket(age_s: float | None, bucket: str) -> None:
    """The buckets are a closed set, and what nobody knows is one of them."""
    assert drift.age_bucket(age_s) == bucket
    assert bucket in drift.AGES


# Gone.


@pytest.mark.parametrize("entity", ENTITIES)
def test_what_is_held_and_no_longer_there_is_extra_once(entity: Entity) -> None:
    """Of each entity: it is marked, keeps its values, and asking again finds nothing."""
    told: dict[Entity, tuple[EventType, Payload]] = {
        "ticket": (T.TICKET_CREATED, ticket(status="open")),
        "contact": (T.CONTACT_CREATED, contact(name="Ana")),
        "campaign": (T.CAMPAIGN_FINISHED, campaign(status="finished")),
        "message": (T.MESSAGE_SENT, message(body="x", from_me=True, ack=2)),
    }
    rows = folded(log((*told[entity], 1)))
    (key,) = (key for key in rows if key.table == entity)
    before = rows[key].values
    absent = drift.absence(entity, key.id, as_of=at(10), log_end=1)
    assert judge(rows, absent) == Finding(entity, key.id, "extra", ("gone",), None)
    observe(rows, absent, 2)
    assert rows[key].values == {**before, "gone": True}
    assert judge(rows, replace(absent, as_of=at(90), log_end=9)) == "same"
    assert judge({}, absent) == "same"


def test_a_stub_that_is_nowhere_is_marked_and_stays_a_stub() -> None:
    """Who was only named and does not exist is asked for no more."""
    rows = folded(log((T.MESSAGE_RECEIVED, message(ticket_id="k1"), 1)))
    absent = drift.absence("ticket", "k1", as_of=at(10), log_end=1)
    assert judge(rows, absent) == Finding("ticket", "k1", "extra", ("gone",), None)
    observe(rows, absent, 2)
    assert (rows[TICKET].known, rows[TICKET].values["gone"]) == (False, True)
    assert judge(rows, absent) == "same"


def test_what_was_told_of_since_is_not_gone_yet() -> None:
    """An event behind the log's end then, or later than the answer, whatever it says: ask again."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open"), 1), (T.TICKET_UPDATED, ticket(channel="sms"), 7)))
    assert judge(rows, drift.absence("ticket", "k1", as_of=at(10), log_end=1)) == "waits"
    assert judge(rows, drift.absence("ticket", "k1", as_of=at(6), log_end=2)) == "waits"
    assert judge(rows, drift.absence("ticket", "k1", as_of=at(10), log_end=2)) != "waits"


def test_what_was_gone_and_is_shown_is_stale_and_there_again() -> None:
    """The mark is a difference like any other, and the observation says so in its data."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open"), 1), (T.TICKET_OBSERVED, ticket(gone=True), 5)))
    seen = sighting(ticket(status="open"), 10)
    assert judge(rows, seen) == Finding("ticket", "k1", "stale", ("gone",), 5.0)
    appended = observe(rows, seen, 3)
    assert appended.event.data == b'{"ticket":{"id":"k1","status":"open","gone":false}}'
    assert rows[TICKET].values["gone"] is False
    assert judge(rows, seen) == "same"
    assert judge(rows, drift.absence("ticket", "k1", as_of=at(20), log_end=3)) != "same"
    early = sighting(ticket(status="open"), 4)
    gone = folded(log((T.TICKET_CREATED, ticket(status="open"), 1), (T.TICKET_OBSERVED, ticket(gone=True), 5)))
    assert judge(gone, early) == "waits"


# Doubt and waiting.


def test_a_doubtful_field_is_settled_where_the_answer_shows_it() -> None:
    """Equal to what stands or not, an answer that is later than both values ends the doubt, once."""
    history: list[tuple[EventType, Payload, float]] = [
        (T.TICKET_UPDATED, ticket(status=status, created_at=at(created)), 1)
        for created, status in enumerate(("open", "closed"))
    ]
    rows = folded(log(*history))
    assert judge(rows, sighting(ticket(status="closed"))) == Finding("ticket", "k1", "doubtful", ("status",), None)
    whole = sighting(ticket(status="closed", created_at=at(0)))
    assert judge(rows, whole) == Finding("ticket", "k1", "doubtful", ("status", "created_at"), None)
    assert judge(rows, sighting(ticket(status="open"))) == Finding("ticket", "k1", "stale", ("status",), 9.0)
    assert judge(rows, sighting(ticket(channel=None))) == "same"
    assert judge(rows, sighting(ticket(status="closed"), 1)) == Finding("ticket", "k1", "doubtful", ("status",), None)
    assert judge(rows, sighting(ticket(status="closed"), 0.9)) == "waits"
    assert judge(rows, sighting(ticket(status="closed"), 10, log_end=1)) == "waits"
    observe(rows, whole, 3)
    assert not rows[TICKET].doubtful
    assert judge(rows, whole) == "same"


def test_doubt_about_a_messages_place_is_left_alone() -> None:
    """No list can settle it, so none is asked to: it would be found at every run."""
    rows = folded(
        log(
            (T.MESSAGE_RECEIVED, message(body="x", ticket_id="k1"), 1),
            (T.MESSAGE_RECEIVED, message(body="x", ticket_id="k2"), 1),
        )
    )
    assert rows[MESSAGE].doubtful
    assert judge(rows, sighting(message(body="x"), ticket_id="k1")) == "same"


def test_a_webhook_during_the_backfill_wins_over_the_older_page() -> None:
    """It came after the log's end then, or tells of a later time: the page is read again, and loses if it is not."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open"), 1), (T.TICKET_CLOSED, ticket(status="closed"), 20)))
    page = ticket(status="open")
    assert judge(rows, sighting(page, 10, log_end=2)) == "waits"
    assert judge(rows, sighting(page, 30, log_end=1)) == "waits"
    assert isinstance(judge(rows, sighting(page, 30, log_end=2)), Finding)
    observe(rows, sighting(page, 10, log_end=2), 3)
    assert rows[TICKET].values["status"] == "closed"
    # What was touched and does not differ needs no waiting.
    assert judge(rows, sighting(ticket(status="closed"), 10, log_end=1)) == "same"


# The last message.
