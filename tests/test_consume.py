"""The module for consumers: records and rows of the read API to typed events, and back."""

import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.test_records import EVENTS, LOG_ID, entry_of
from test_docs import Client
from test_docs import filled_api as _filled_api
from whatsms_events import consume
from whatsms_events.domain import events
from whatsms_events.domain.events import Event, LogEntry, MessagePayload, encode, entity
from whatsms_events.domain.records import to_record
from whatsms_events.errors import InvalidEventError

filled_api = _filled_api

SAMPLES = [
    json.loads(path.read_bytes()) for path in sorted((Path(__file__).parent / "deliveries").glob("*.event.json"))
]
BY_ENTITY = {
    name: [msgspec.json.encode(one["data"]) for one in SAMPLES if entity(events.EventType(one["type"])) == name]
    for name in events.SHAPES
}


def with_data(event: Event) -> st.SearchStrategy[Event]:
    """Give an event with data of its kind: a sample's, or one that is made of the bare structs, or none any more."""
    name = entity(event.type)
    thing = {"message": events.Message, "ticket": events.Ticket, "contact": events.Contact}.get(name, events.Campaign)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    made = st.builds(thing, id=text, created_at=st.none() | st.datetimes(timezones=st.timezones())).map(
        lambda one: encode(events.SHAPES[name](**{name: one}))
    )
    return (st.sampled_from(BY_ENTITY[name]) | made).map(lambda data: msgspec.structs.replace(event, data=data))


ENTRIES = st.builds(LogEntry, position=st.integers(0, 2**63 - 1), event=EVENTS.flatmap(with_data))


@given(entry=ENTRIES, log_id=st.uuids())
def test_back_and_forth_over_kafka_is_the_identity(entry: LogEntry, log_id: UUID) -> None:
    """A record becomes an event that becomes the same record; and the event is the log's own, with its data typed."""
    record = to_record(entry, log_id)
    consumed = consume.from_kafka(record.headers, record.value)
    assert consume.to_kafka(consumed) == record
    assert consume.from_kafka(record.headers, record.value) == consumed
    assert (consumed.log_id, consumed.position, consumed.event) == (log_id, entry.position, entry.event)
    assert isinstance(consumed.data, events.SHAPES[entity(entry.event.type)])


@given(entry=ENTRIES, blanked=st.booleans(), slug=st.none() | st.just("acme"))
def test_back_and_forth_over_json_is_the_identity(entry: LogEntry, blanked: bool, slug: str | None) -> None:
    """A row of the read API becomes an event that becomes the same row, also where retention removed its data."""
    event = msgspec.structs.replace(entry.event, data=b"") if blanked else entry.event
    data = None if blanked else events.decode(event)
    consumed = consume.Consumed(log_id=None, position=entry.position, event=event, data=data)
    row = consume.to_json(consumed, slug)
    assert consume.from_json(row) == consumed
    assert consume.to_json(consume.from_json(row), slug) == row
    page = consume.rows_of(b'{"events":[%b,%b],"next":3,"end":9}' % (row, row))
    assert page == consume.RowsPage(rows=[row, row], next=3, end=9)


def test_the_example_of_the_module_is_true() -> None:
    """An event is asked for its type and its data, and both are typed."""
    record = to_record(entry_of(data=b'{"message":{"id":"m-1","body":"Ol\xc3\xa1"}}'), LOG_ID)
    consumed = consume.from_kafka(list(record.headers), record.value)
    assert isinstance(consumed.data, MessagePayload)
    assert consumed.event.type is events.EventType.MESSAGE_RECEIVED
    assert consumed.data.message.body == "Olá"


@pytest.mark.parametrize(
    ("headers", "value", "reason"),
    [
        (None, b"{}", "stray"),
        ([], None, "stray"),
        (to_record(entry_of(), LOG_ID).headers, None, "record"),
        (to_record(entry_of(), LOG_ID).headers, b"{}", "data"),
        (to_record(entry_of(), LOG_ID).headers, b"\xff", "data"),
        ((*to_record(entry_of(), LOG_ID).headers, ("ce_type", b"pt.whatsms.call.began")), b"{}", "record"),
    ],
)
def test_what_is_no_event_says_why(headers: list[tuple[str, bytes]] | None, value: bytes | None, reason: str) -> None:
    """A record of somebody else, one of a later release's type, and a broken one raise an error with the reason."""
    with pytest.raises(InvalidEventError) as caught:
        consume.from_kafka(headers, value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("row", [b"", b"[]", b"\xff", b"{}", b"[" * 5000, '{"position":1}', "\ud800"])
def test_what_is_no_row_says_so(row: bytes | str) -> None:
    """What the read API would never answer raises the same error."""
    with pytest.raises(InvalidEventError):
        consume.from_json(row)
    with pytest.raises(InvalidEventError):
        consume.rows_of(row)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("position", -1),
        ("position", 2**63),
        ("received_at", "2026-01-15T10:30:00"),
        ("occurred_at", "2026-01-15T10:30:00"),
        ("received_at", "0001-01-01T00:00:00+23:59"),
        ("subject", "\ud800"),
    ],
)
def test_a_row_with_a_value_that_no_log_holds_is_none(field: str, value: object) -> None:
    """A position that no log has, a time without a zone and half a character are refused as in a record's headers."""
    consumed = consume.from_kafka(to_record(entry_of(), LOG_ID).headers, entry_of().event.data)
    row = json.loads(consume.to_json(consumed))
    consume.from_json(json.dumps(row))
    with pytest.raises(InvalidEventError):
        consume.from_json(json.dumps(row | {field: value}, ensure_ascii=False))


def test_a_time_of_another_zone_is_read_in_utc() -> None:
    """The times of an event are in UTC, wherever the row was written."""
    row = json.loads(consume.to_json(consume.from_kafka(to_record(entry_of(), LOG_ID).headers, b'{"message":{}}')))
    read = consume.from_json(json.dumps(row | {"received_at": "2026-01-15T12:30:00+02:00"}))
    assert read.event.received_at.isoformat() == "2026-01-15T10:30:00+00:00"


def test_an_event_of_the_read_api_is_no_record() -> None:
    """A record must name its log, which a row does not."""
    consumed = consume.from_kafka(to_record(entry_of(), LOG_ID).headers, entry_of().event.data)
    with pytest.raises(ValueError, match="names no log"):
        consume.to_kafka(msgspec.structs.replace(consumed, log_id=None))


async def test_the_real_read_api_is_understood(filled_api: Client) -> None:
    """A page that the read API answers is read, with all of its events."""
    async with filled_api.get("/api/v1/events") as answer:
        page = consume.rows_of(await answer.read())
    assert (page.next, page.end, [consume.from_json(row).position for row in page.rows]) == (1, 1, [1])


def test_nothing_but_the_domain_is_imported() -> None:
    """A consumer that uses the module loads no HTTP server, no client of Kafka, no database."""
    heavy = ("aiohttp", "aiokafka", "sqlalchemy", "pydantic", "prometheus_client", "structlog")
    program = f"import sys, whatsms_events.consume; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@given(entries=st.lists(ENTRIES, max_size=4), cut=st.integers(0, 4000), slug=st.none() | st.just("acme"))
def test_back_and_forth_over_the_feed_is_the_identity(entries: list[LogEntry], cut: int, slug: str | None) -> None:
    """Blocks become the events that become the same blocks; a block that is cut off is no event and moves no place."""
    records = [to_record(one, LOG_ID) for one in entries]
    blocks = [consume.to_feed(consume.from_kafka(one.headers, one.value), slug) for one in records]
    text = b"".join(blocks)
    whole = [n for n in range(len(blocks)) if len(b"".join(blocks[: n + 1])) <= cut]
    for limit, wanted in ((len(text), entries), (cut, [entries[n] for n in whole])):
        feed = consume.FeedReader()
        lines = text[:limit].removesuffix(b"\n").split(b"\n")  # a line that has ended is followed by none yet
        sent = [one for one in map(feed.line, lines) if one is not None]
        read = [consume.from_json(one.data) for one in sent]
        assert [(one.position, one.event) for one in read] == [(one.position, one.event) for one in wanted]
        assert [one.name for one in sent] == [one.event.type for one in wanted]
        assert not any(one.ended for one in sent)
        assert feed.last_id == (f"{wanted[-1].position}-{wanted[-1].event.id}" if wanted else "")
        assert [consume.to_feed(one, slug) for one in read] == blocks[: len(wanted)]


@given(entries=st.lists(ENTRIES, max_size=4), cut=st.integers(0, 4000))
def test_a_reader_whose_connection_breaks_anywhere_has_each_event_once(entries: list[LogEntry], cut: int) -> None:
    """Wherever a connection breaks off, also within a character, the next one gives what the reader did not have: what
    was cut off is no part of what comes then.
    """
    records = [to_record(one, LOG_ID) for one in entries]
    blocks = [consume.to_feed(consume.from_kafka(one.headers, one.value), None) for one in records]
    feed = consume.FeedReader()
    cut_off = b"".join(blocks)[:cut].splitlines(keepends=True)
    had = [one for one in map(feed.line, cut_off) if one is not None]
    place = feed.reopen()
    assert place == (f"{entries[len(had) - 1].position}-{entries[len(had) - 1].event.id}" if had else "")
    rest = [b": welcome\n", b"\n", *b"".join(blocks[len(had) :]).splitlines(keepends=True)]
    had += [one for one in map(feed.line, rest) if one is not None]
    assert [consume.from_json(one.data).event for one in had] == [one.event for one in entries]


def test_the_rules_of_server_sent_events_are_kept() -> None:
    """A comment, an unknown field and `retry` change nothing; data of several lines is joined; an id without data moves
    the place; an id with a NUL is none; what has no name is a message; the last block says why.
    """
    feed = consume.FeedReader("1")
    text = (
        ": hello\nretry: 3\nid: 2\n\nid: 3\0\ndata: a\ndata:b\n\nevent: feed.ended\ndata: {}\nid: 4\n\nid: 5\ndata: c"
    )
    sent = [one for one in map(feed.line, text.split("\n")) if one is not None]
    assert [(one.name, one.data, one.ended) for one in sent] == [
        ("message", "a\nb", False),
        ("feed.ended", "{}", True),
    ]
    assert feed.last_id == "4"
