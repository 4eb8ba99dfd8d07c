"""What stays of events of somebody who was forgotten: laws over whole stories of two people."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.histories import START, at, entry, folded
from servers.examples import examples
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    decode,
    encode,
    to_micros,
)
from whatsms_events.domain.forms import INFLATED_LIMIT, inflated
from whatsms_events.domain.marks import KnownPerson, Marker, Suppressions, number_name
from whatsms_events.domain.named import named_in_bytes
from whatsms_events.domain.personal import personal_values, spellings
from whatsms_events.domain.suppression import remaining, suppressed, suppressed_park
from whatsms_events.domain.verdicts import Append, Park

T = EventType
ANA, RUI = "Ana-7f3a91", "Rui-5521aa"
NUMBERS = {ANA: "351910000731", RUI: "351920000842"}
FORGOTTEN_S = 100.0
PERSON = KnownPerson(
    to_micros(at(FORGOTTEN_S)), {"c-Ana"}, {NUMBERS[ANA]}, {"k-Ana"}, {"m-Ana-1", "m-Ana-2"}, {"k-group": {ANA}}
)
MARKER = Marker(b"a key of the tests")
MARKS = Suppressions(MARKER, {MARKER.mark("t1", kind, value): PERSON.forgotten_at for kind, value in PERSON.names()})


def contact_of(who: str, updated: float | None = None) -> Contact:
    """Return somebody's contact."""
    changed = msgspec.UNSET if updated is None else at(updated)
    return Contact(id=f"c-{who[:3]}", name=who, number=NUMBERS[who], updated_at=changed, extra={"pushName": who})


def ticket_of(who: str, created: float | None = 0) -> Ticket:
    """Return somebody's ticket."""
    made = msgspec.UNSET if created is None else at(created)
    return Ticket(id=f"k-{who[:3]}", last_message=who, contact=contact_of(who), created_at=made, extra={"who": who})


def message_of(who: str, number: int, created: float | None, *, bare: bool = False) -> MessagePayload:
    """Return a message of somebody, with everything beside it or alone."""
    made = msgspec.UNSET if created is None else at(created)
    message = Message(id=f"m-{who[:3]}-{number}", body=who, from_me=False, created_at=made, extra={"raw": {"n": who}})
    if bare:
        return MessagePayload(message=msgspec.structs.replace(message, ticket_id=f"k-{who[:3]}"))
    return MessagePayload(message=message, ticket=ticket_of(who, created), contact=contact_of(who), extra={"who": who})


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that the vendor tells: whose it is, of when, and with which envelope time it is sent."""

    who: str
    kind: EventType
    payload: Payload
    seconds: float | None
    old: bool


@st.composite
def told(draw: st.DrawFn) -> Told:
    """Give something that somebody did before the person was forgotten, sent at any time, or afterwards."""
    who, old = draw(st.sampled_from([ANA, RUI])), draw(st.booleans())
    happened = draw(st.sampled_from([10.0, 50.0, 99.0] if old else [101.0, 150.0]))
    sent = draw(st.sampled_from([happened, 200.0]))
    number = draw(st.sampled_from([1, 2])) if old else draw(st.sampled_from([8, 9]))
    kind = draw(st.sampled_from([T.MESSAGE_RECEIVED, T.TICKET_CREATED, T.CONTACT_UPDATED, T.CONTACT_OBSERVED]))
    payload: Payload
    if kind is T.MESSAGE_RECEIVED:
        payload = message_of(who, number, happened, bare=draw(st.booleans()))
    elif kind is T.TICKET_CREATED:
        payload = TicketPayload(ticket=ticket_of(who, happened))
    else:
        payload = ContactPayload(contact=contact_of(who, happened))
    return Told(who, kind, payload, sent, old)


def append_of(one: Told, received: float) -> Append:
    """Return the event as it comes in."""
    event = entry(1, one.kind, one.payload, one.seconds, received=received).event
    return Append(event, encode(one.payload), bytes(32))


@given(told(), st.sampled_from([120.0, 5000.0]))
def test_at_the_door_what_is_old_of_the_person_is_blanked_and_nothing_else(one: Told, received: float) -> None:
    """However it is stamped, what happened before leaves no value; what is new or another's is the same to the byte."""
    append = append_of(one, received)
    done = suppressed(append, MARKS)
    if one.who == ANA and one.old:
        assert not [text for text in (ANA, NUMBERS[ANA]) if text.encode() in done.event.data]
        assert done.blanked
        assert msgspec.structs.replace(done.event, data=append.event.data) == append.event
    else:
        assert done is append


@given(told())
def test_in_the_log_everything_of_the_person_from_before_goes_whatever_its_times(one: Told) -> None:
    """What stands before the person was forgotten is blanked, also where its clock was ahead; twice is once."""
    event = append_of(one, 5000.0).event
    payload = decode(event)
    left = remaining(event, payload, PERSON.find, settled=True, late=False)
    if one.who == ANA:
        assert personal_values(left) == []
        assert remaining(event, left, PERSON.find, settled=True, late=False) is left
    else:
        assert left is payload


Step = tuple[str, Any]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), told()),
        st.tuples(st.just("again"), st.integers(0, 9)),
        st.tuples(st.just("forget"), st.just(None)),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("rebuild"), st.just(None)),
    ),
    max_size=14,
)


class Story:
    """A log and the marks of who was forgotten, as the parts of the service treat them, without a database."""

    def __init__(self) -> None:
        self.log: list[LogEntry] = []
        self.sent: list[Told] = []
        self.forgotten = False
        self.through = 0  # how far the log is blanked

    def append(self, one: Told, *, again: bool) -> None:
        """Commit what came; a redelivery with other bytes is another event."""
        received = 150.0 if self.forgotten else 60.0
        append = append_of(one, received)
        if self.forgotten:
            append = suppressed(append, MARKS)
        event = msgspec.structs.replace(append.event, id=append.event.id)
        self.log.append(LogEntry(position=len(self.log) + 1, event=event))
        if not again:
            self.sent.append(one)

    def forget(self, *, steps: int | None = None) -> None:
        """Forget the person; a process that is killed after some rows leaves the rest to the next one."""
        if not self.forgotten:
            self.forgotten, self.end = True, len(self.log)
        for number in range(self.through, self.end if steps is None else min(self.end, self.through + steps)):
            event = self.log[number].event
            left = remaining(event, decode(event), PERSON.find, settled=True, late=False)
            self.log[number] = LogEntry(position=number + 1, event=msgspec.structs.replace(event, data=encode(left)))
            self.through = number + 1

    @property
    def done(self) -> bool:
        """Tell whether the erasure is finished."""
        return self.forgotten and self.through == self.end


@settings(max_examples=examples(200))
@given(STEPS)
def test_no_interleaving_brings_a_forgotten_value_back_or_takes_anothers(steps: list[Step]) -> None:
    """Deliveries, redeliveries, reorderings, observations, kills, forgets and rebuilds in any order, on one log."""
    story = Story()
    for what, value in steps:
        match what:
            case "deliver":
                # Before the person was forgotten nothing can have happened after it.
                if story.forgotten or value.old:
                    story.append(value, again=False)
            case "again" if story.sent:
                story.append(story.sent[value % len(story.sent)], again=True)
            case "forget":
                story.forget()
            case "kill":
                story.forget(steps=value)
            case _:
                pass
        if not story.done:
            continue
        rows = folded(story.log)
        came_back = any(one.who == ANA and not one.old for one in story.sent)
        values = [text for row in rows.values() for text in row.values.values() if isinstance(text, str)]
        told_of_ana = [text for text in values if ANA in text or NUMBERS[ANA] in text]
        assert came_back or not told_of_ana
        for key, row in rows.items():
            if key.table == "message" and key.id in ("m-Ana-1", "m-Ana-2"):
                assert row.values["body"] is None
    others = [one for one in story.log if one.event.contact_id == "c-Rui" or b"k-Rui" in one.event.data]
    assert all(RUI.encode() in one.event.data or NUMBERS[RUI].encode() in one.event.data for one in others)


@pytest.mark.parametrize(
    ("raw", "received", "gone"),
    [
        (b'{"event":"x","timestamp":"2026-05-01T12:00:10Z","data":{"contactId":"c-Ana"}}', 120, True),
        (b'{"event":"x","timestamp":"2026-05-01T12:05:00Z","data":{"contactId":"c-Ana"}}', 400, False),
        (b'{"event":"x","timestamp":"2026-05-01T12:05:00Z","data":{"contactId":"c-Ana"}}', 90, True),
        (b'{"event":"contact.x","data":{"id":"c-Ana"}}', 120, True),
        (b'{"event":"x","data":{"number":"351910000731@c.us"}}', 120, True),
        (b'{"event":"x","data":{"ref":"c-Ana","contactId":"c-Rui"}}', 120, False),
        (b'{"cut": "351910000731', 120, True),
        (b'{"event":"message.received","data":{"message":{"id":"m-Ana-1","body":"Old', 120, True),
        (b'{"event":"ticket.updated","data":{"ticketId": "k-Ana", "lastM', 120, True),
        (b'{"event":"contact.updated","tenantId":"t1","data":{"id":"c-Ana","na', 120, True),
        (b'{"event":"ticket.updated","tenantId":"t1","data":{"id":"c-Ana","na', 120, False),
        (b'{"event":"x","data":{"number":351910000731.0}}', 120, True),
        (b"\xff\x00 nothing of anybody", 120, False),
    ],
)
def test_parked_bytes_that_name_the_person_and_are_not_newer_go(raw: bytes, received: float, *, gone: bool) -> None:
    """A delivery that nobody can read is looked at for ids under their names and for numbers."""
    park = Park(UUID(int=1), "t1", "unknown_event", "", at(received), raw, bytes(32), None)
    assert (suppressed_park(park, MARKS).raw == b"") == gone


HERS = b'{"contactId":"c-Ana"}'
zipped = partial(
    gzip.compress, mtime=0
)  # the same bytes, and so the same names of tests, in each process that runs them


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", zipped(b'{"a":1,') + zipped(b'"contactId":"c-Ana"}')),
        ("deflate", zlib.compress(HERS)),
        ("deflate", zlib.compress(HERS, wbits=-15)),
        ("GZIP, gzip", zipped(zipped(HERS))),
        ("gzip", zipped(zipped(HERS))),
        ("deflate, gzip", zipped(zlib.compress(HERS))),
        (None, zipped(HERS)),
        ("identity, gzip", zipped(HERS.decode().encode("utf-16"))),
    ],
)
def test_a_compressed_body_is_read_to_its_end(encoding: str | None, body: bytes) -> None:
    """However often a sender compresses it, what names the person is found; one that was cut is not taken as whole."""
    park = Park(UUID(int=1), "t1", "unknown_event", "", at(120), body, bytes(32), encoding)
    assert suppressed_park(park, MARKS).raw == b""
    assert inflated(body[:-5], encoding) is None


@pytest.mark.parametrize("wrap", [zipped, lambda body: zipped(zipped(body)), lambda body: zipped(body) + zipped(b" ")])
def test_a_compressed_body_is_read_up_to_a_limit(wrap: Callable[[bytes], bytes]) -> None:
    """What is larger once it is unpacked is refused, so that 8 KB are never read as 8 MB; then nobody can tell."""
    whole = HERS + b" " * (INFLATED_LIMIT - len(HERS) - 1)
    assert inflated(wrap(whole), "gzip") is not None
    assert inflated(wrap(whole + b"  "), "gzip") is None


CODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "utf-8-sig")
SPELT = ("00351910000731", "+351 910 000 731", "+351-910-000-731", "(00351) 910.000.731", "TEL:+351 910-000 731;x")

PASTED = (
    "+351\u00a0910\u00a0000\u00a0731", "+351\u2011910\u2011000\u2011731", "351/910000731", "\u202a+351 910000731\u202c",
    "tel:+351910000731", "whatsapp:+351910000731", "".join(chr(0xFF10 + int(one)) for one in "351910000731"),
)  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        *(HERS.decode().encode(one) for one in CODINGS),
        b'{"contactId":"c-Ana","contactId":"c-Rui"}',
        b'{"event":"contact.updated","data":{"id":"c-Ana"},"data":{"id":"c-Rui"}}',
        b'{"event":"contact.updated","event":"x.y","data":{"id":"c-Ana"}}',
        b'{"a":"{\\"contactId\\":\\"c-Ana\\",\\"contactId\\":1}"}',
        *(f'{{"to":"{one}"}}'.encode() for one in (*SPELT, *PASTED[:-1])),
        b'{"to":"351 910 000 731',
    ],
    ids=str,
)
def test_a_body_names_the_person_however_it_is_written(body: bytes) -> None:
    """In UTF-16 or UTF-32, by the first of two fields with one name, by a number with signs or as it is dialled."""
    park = Park(UUID(int=1), "t1", "unknown_event", "", at(120), body, bytes(32), None)
    assert suppressed_park(park, MARKS).raw == b""
    others = body.replace(b"731", b"732").replace(b"A\x00n\x00a", b"B\x00n\x00a")
    assert (suppressed_park(msgspec.structs.replace(park, raw=others), MARKS).raw == b"") == (others == body)


def test_what_is_new_is_kept_however_it_is_written() -> None:
    """The time of a delivery in UTF-16 is read too; zeros in bytes that are no text are no encoding."""
    told = f'{{"contactId":"c-Ana","timestamp":"{at(150):%Y-%m-%dT%H:%M:%SZ}"}}'.encode("utf-16")
    park = Park(UUID(int=1), "t1", "unknown_event", "", at(160), told, bytes(32), None)
    assert suppressed_park(park, MARKS) is park
    binary = msgspec.structs.replace(park, raw=b'\x00x {"contactId":"c-Ana", cut')
    assert suppressed_park(binary, MARKS).raw == b""


def test_others_unknown_fields_lose_only_what_names_the_person() -> None:
    """A quote of theirs goes, with what names them; the rest of the field's neighbours and the message stay."""
    extra = {"quotedMsg": {"id": "m-Ana-1", "body": ANA}, "device": {"os": "x"}, "n": 7, "phone": NUMBERS[ANA]}
    payload = MessagePayload(message=Message(id="m-Rui-1", body=RUI, contact_id="c-Rui", extra=extra))
    event = entry(1, T.MESSAGE_RECEIVED, payload, 50).event
    left = remaining(event, payload, MARKS.of("t1"))
    assert isinstance(left, MessagePayload)
    assert left.message == msgspec.structs.replace(payload.message, extra={"device": {"os": "x"}, "n": 7})


ANAS, RUIS = NUMBERS[ANA], NUMBERS[RUI]
RECIPIENTS: list[tuple[Any, Any]] = [
    ([ANAS, RUIS], [RUIS]),
    ([int(ANAS), int(RUIS)], [int(RUIS)]),
    ([{"id": "c-Ana", "name": ANA}, {"id": "c-Rui", "name": RUI}], [{"id": "c-Rui", "name": RUI}]),
    ([{"name": ANA, "phones": [{"number": ANAS}]}, {"name": RUI}], [{"name": RUI}]),
    ({"list": "vip", "contacts": [{"number": ANAS, "name": ANA}]}, {"list": "vip", "contacts": []}),
    ([{"name": "vip", "contacts": [{"id": "c-Ana"}, {"id": "c-Rui"}]}],
     [{"name": "vip", "contacts": [{"id": "c-Rui"}]}]),
    ({"results": {"failed": [ANAS, RUIS]}}, {"results": {"failed": [RUIS]}}),
    ({ANAS: "failed", RUIS: "sent"}, {RUIS: "sent"}),
    ({f"{ANAS}@c.us": {"name": ANA}, RUIS: {"name": RUI}}, {RUIS: {"name": RUI}}),
    (f'[{{"number": "{ANAS}", "name": "{ANA}"}}, {{"number": "{RUIS}"}}]', f'[{{"number":"{RUIS}"}}]'),
    ({"failed": {"number": ANAS, "name": ANA}, "count": 1}, {"count": 1}),
    ([*({"number": f"3530000{n:05}"} for n in range(3000)), {"number": ANAS}],
     [{"number": f"3530000{n:05}"} for n in range(3000)]),
]  # fmt: skip


@pytest.mark.parametrize(("shown", "left"), RECIPIENTS, ids=lambda one: str(one)[:40])
@pytest.mark.parametrize("where", ["contacts", "campaign"])
def test_a_campaign_loses_the_person_and_keeps_everybody_else(shown: Any, left: Any, where: str) -> None:
    """Who a campaign went to stands in lists that nobody has described: of each, the person's own part goes."""
    extra, rest = {"contacts": shown, "delay": 20}, {"contacts": left, "delay": 20}
    told = Campaign(id="14", name="Verão", message="Olá {{name}}", extra=extra if where == "campaign" else {})
    payload = CampaignPayload(campaign=told, extra={} if where == "campaign" else extra)
    kept = remaining(entry(1, T.CAMPAIGN_FINISHED, payload, 50).event, payload, MARKS.of("t1"))
    assert isinstance(kept, CampaignPayload)
    assert kept.campaign.name == "Verão"
    assert (kept.campaign.extra if where == "campaign" else kept.extra) == rest
    assert remaining(entry(2, T.CAMPAIGN_FINISHED, kept, 50).event, kept, MARKS.of("t1")) is kept
    assert named_in_bytes(encode(payload), MARKS.of("t1")) == PERSON.forgotten_at


def test_of_a_list_in_anothers_event_only_the_persons_elements_go() -> None:
    """Who is mentioned beside them stays; where a list tells of one thing in several values, all of it goes."""
    lists = {
        "mentions": [{"contactId": "c-Ana", "pushName": ANA}, {"id": "c-Rui"}],
        "to": [ANAS, RUIS],
        "card": ["Ana", ANAS],
    }
    payload = MessagePayload(message=Message(id="m-Rui-1", body=RUI, contact_id="c-Rui", extra=lists))
    left = remaining(entry(1, T.MESSAGE_RECEIVED, payload, 50).event, payload, MARKS.of("t1"))
    assert isinstance(left, MessagePayload)
    assert left.message.extra == {"mentions": [{"id": "c-Rui"}], "to": [RUIS]}
    assert remaining(entry(2, T.MESSAGE_RECEIVED, left, 50).event, left, MARKS.of("t1")) is left


def test_a_preview_of_the_persons_text_in_a_groups_ticket_goes_with_any_event() -> None:
    """Also with events of later: but not where it is the text of the message that the event is about."""
    group = Ticket(id="k-group", last_message=ANA, contact_id="c-group")
    payload = MessagePayload(message=Message(id="m-Rui-1", body=RUI, contact_id="c-Rui"), ticket=group)
    event = entry(1, T.MESSAGE_RECEIVED, payload, 500, received=500).event
    left = remaining(event, payload, MARKS.of("t1"))
    assert isinstance(left, MessagePayload)
    assert isinstance(left.ticket, Ticket)
    assert left.ticket.last_message is msgspec.UNSET
    same = MessagePayload(message=Message(id="m-Rui-1", body=ANA, contact_id="c-Rui"), ticket=group)
    assert remaining(event, same, MARKS.of("t1")) is same


def test_marks_tell_nothing_without_the_key_and_differ_by_tenant_and_kind() -> None:
    """The same id of another tenant, or as another kind of thing, has another mark; so has it with another key."""
    one = MARKER.mark("t1", "contact", "c-Ana")
    others = [
        MARKER.mark("t2", "contact", "c-Ana"), MARKER.mark("t1", "ticket", "c-Ana"),
        MARKER.mark("t1c", "ontact", "c-Ana"), Marker(b"another").mark("t1", "contact", "c-Ana"),  # type: ignore[arg-type]
    ]  # fmt: skip
    assert one not in others
    assert b"c-Ana" not in one
    assert Marker(b"another").check != MARKER.check
    assert MARKS.of("t2")("contact", "c-Ana") is None
    assert not Suppressions()


@pytest.mark.parametrize(("changed", "stays"), [(at(50), False), (at(150), True), (None, True)])
def test_a_new_event_of_somebody_else_shows_nobody_as_of_before(changed: datetime | None, stays: bool) -> None:
    """A participant who did not change since goes from an unknown field as from a known one; who did, or tells no time,
    is new with the event.
    """
    people = [{"id": f"c-{who[:3]}", "name": who, "number": NUMBERS[who]} for who in (RUI, ANA)]
    people[1] |= {} if changed is None else {"updatedAt": changed.isoformat()}
    ticket = msgspec.structs.replace(ticket_of(RUI, 150), extra={"participants": people})
    event = entry(1, T.TICKET_UPDATED, TicketPayload(ticket=ticket), 150, received=200).event
    left = remaining(event, decode(event), MARKS.of("t1"))
    assert isinstance(left, TicketPayload)
    assert left.ticket.extra == {"participants": people if stays else people[:1]}


@pytest.mark.parametrize(
    ("contact", "stays"),
    [
        (Contact(id="c-Ana", name=ANA, created_at=at(10)), False),
        (Contact(id="c-Ana", name=ANA), False),
        (Contact(id="c-new", name=ANA, number=NUMBERS[ANA], created_at=at(10)), False),
        (Contact(id="c-new", name=ANA, number=NUMBERS[ANA], created_at=at(150)), True),
        (Contact(id="c-new", name=ANA, number=NUMBERS[ANA]), True),
        (Contact(id="c-Ana", name=ANA, created_at=at(10), updated_at=at(150)), True),
    ],
)
def test_a_contact_that_tells_no_change_is_no_news_of_who_was_known(contact: Contact, stays: bool) -> None:
    """A retry is stamped when it is sent: name and number come back with a time of change, or with a new contact."""
    event = entry(1, T.CONTACT_UPDATED, ContactPayload(contact=contact), 150, received=200).event
    left = remaining(event, decode(event), MARKS.of("t1"))
    assert isinstance(left, ContactPayload)
    assert (left.contact.name == ANA) == stays


def test_numbers_are_known_in_every_spelling() -> None:
    """With signs, as a chat's id and with a device behind it; a short one, a LID's word and a text are none."""
    for text in ("351910000731", "351910000731@c.us", "351910000731:12@s.whatsapp.net", *SPELT[:4], *PASTED):
        assert number_name(text) == "351910000731"
    for text in ("12345", "abc", "", "call 351910000731 now", "0000000000", "+351 000 000 000", "1234567890", "111111"):
        assert number_name(text) is None
    for text in ("45 21 11 11 11", "21111111", "351911111111"):  # its own digits are not all the same
        assert number_name(text) == text.replace(" ", "")
    assert named_in_bytes(b'{"a":{"number":"+351 910 000 731"}}', MARKS.of("t1")) == PERSON.forgotten_at
    assert spellings("é") == {"é".encode(), b"\\u00e9"}


def test_times_of_the_story_are_as_meant() -> None:
    """The person is forgotten after what is old, and before what is new."""
    assert datetime.fromtimestamp(PERSON.forgotten_at / 1e6, tz=START.tzinfo) == START + timedelta(seconds=FORGOTTEN_S)
