"""The laws of the fold, proved on random histories, and the cases of research that no law shows."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from domain.histories import (
    CONTACT,
    HISTORY,
    MESSAGE,
    TICKET,
    History,
    Rows,
    assert_same_but_for_doubt,
    at,
    entry,
    folded,
    log,
    message,
    micros,
    numbered,
    ticket,
)
from whatsms_events.domain import fold, message_acks
from whatsms_events.domain.doubt import LOADING
from whatsms_events.domain.events import (
    EPOCH,
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
    decode,
    to_micros,
)
from whatsms_events.domain.rows import (
    BELOW,
    LOADED,
    OBSERVATION,
    OWN,
    UNCOMPARED,
    Claim,
    Key,
    Value,
    Version,
    merge_in_order,
    tell_doubt,
    written,
)
from whatsms_events.errors import InvalidEventError

T = EventType


@given(history=HISTORY, data=st.data())
def test_the_same_log_gives_the_same_tables_whatever_is_read_twice(history: History, data: st.DataObject) -> None:
    """However the log is cut and read again from before, the tables are equal to the last doubt and position."""
    entries = numbered(history)
    rows: Rows = {}
    cuts = sorted(data.draw(st.lists(st.integers(0, len(entries)), max_size=3)))
    for start, end in itertools.pairwise([0, *cuts, len(entries)]):
        again = data.draw(st.integers(0, start))
        folded(entries[again:end], rows)
    assert rows == folded(entries)


@given(history=HISTORY)
def test_claims_of_one_row_taken_together_give_the_same_row(history: History) -> None:
    """A row is folded from all claims of it at once, whatever else their events claim; taken again, they change
    nothing.
    """
    entries = numbered(history)
    rows = folded(entries)
    told: dict[Key, list[tuple[Claim, int]]] = defaultdict(list)
    for one in entries:
        for claim in fold.claims(one.event, decode(one.event)):
            told[claim.key].append((claim, one.position))
    assert {key: merge_in_order(None, claims) for key, claims in told.items()} == rows
    for key, claims in told.items():
        assert merge_in_order(rows[key], claims) == rows[key]


@given(history=HISTORY, data=st.data())
def test_partitions_that_interleave_otherwise_give_the_same_tables(history: History, data: st.DataObject) -> None:
    """Entries keep their positions and come in any order, some twice: the tables are equal, doubtful values too."""
    entries = numbered(history)
    arrived = data.draw(st.permutations(entries + entries[::2]))
    assert folded(arrived) == folded(entries)


@given(history=HISTORY, data=st.data())
def test_another_order_of_the_same_history_differs_only_where_doubt_is_marked(
    history: History, data: st.DataObject
) -> None:
    """A log that got the same events in another order, some again, gives the same tables but for doubtful values."""
    other = data.draw(st.permutations([*history, *history[::3]]))
    assert_same_but_for_doubt(folded(numbered(other)), folded(numbered(history)))


class Said(NamedTuple):
    """What one claim says of a register, and what its doubt depends on."""

    place: tuple[int, int]
    position: int
    value: Value
    arrived: bool
    loaded: bool


def doubtful(said: Sequence[Said]) -> tuple[tuple[int, int], bool]:
    """Return where the winner of all that was said of a register stands, and whether it is in doubt, by definition."""
    winner = max(said, key=lambda one: (one.place, one.position))
    real = winner.place[0] > -BELOW // 2
    rivals = [one for one in said if one.value != winner.value]
    confirmed = [one.place for one in said if one.value == winner.value and not one.arrived]
    # Two values of equal standing, or one that only arrived later: no telling which is the last.
    contested = [one.place for one in rivals if one.place[0] > -BELOW // 2 or not real]
    tied = any(not confirmed or place >= max(confirmed) for place in contested)
    # An own event after an observation: late, or stamped by a clock that is behind.
    late = [one for one in rivals if one.place[1] == OWN and one.position > winner.position]
    # A thing shown within five seconds after: loaded before, or changed since.
    shown = [one for one in rivals if one.loaded and one.place[0] > winner.place[0] - LOADING]
    observed, told = winner.place[1] == OBSERVATION, winner.place[1] >= OWN
    return winner.place, tied or (observed and bool(late)) or (told and bool(shown))


@given(history=HISTORY)
def test_a_field_is_doubtful_just_where_nobody_can_tell(history: History) -> None:
    """Doubt is neither missed nor made up: it is found here from all claims at once."""
    entries = numbered(history)
    seen: dict[tuple[Key, str], list[Said]] = defaultdict(list)
    for one in entries:
        for claim in fold.claims(one.event, decode(one.event)):
            for name, value in claim.registers.items():
                said = Said((claim.time, claim.rank), one.position, value, claim.arrived, claim.rank == LOADED)
                seen[claim.key, name].append(said)
    rows = folded(entries)
    for (key, name), claims in seen.items():
        place, doubt = doubtful(list(reversed(claims)))
        version = rows[key].versions[name]
        assert (version.time, version.rank) == place
        assert version.doubtful == (doubt and name not in UNCOMPARED)
    assert {(key, name) for key, row in rows.items() for name in row.versions} == seen.keys()


@given(history=HISTORY)
def test_versions_are_written_without_their_defaults(history: History) -> None:
    """Their JSON is that of each one, by name, cut behind its last part that says something; doubt shows in it."""
    for row in folded(numbered(history)).values():
        plain = {}
        for name, version in row.versions.items():
            parts = [version.time, version.rank, version.position, version.doubtful, version.aside]
            plain[name] = parts if version.aside is not None else parts[:4] if version.doubtful else parts[:3]
        assert written(row.versions) == msgspec.json.encode(plain, order="deterministic").decode()
        assert tell_doubt(written(row.versions)) == row.doubtful


@given(history=HISTORY)
def test_what_a_row_remembers_is_bounded_and_survives_its_json(history: History) -> None:
    """However long the history, a register keeps a handful of numbers, the same after a look at the database."""
    decoder = msgspec.json.Decoder(Version)
    for row in folded(numbered(history)).values():
        for version in row.versions.values():
            written = msgspec.json.encode(version)
            assert decoder.decode(written) == version
            assert len(written) < 200


@given(history=HISTORY)
def test_acks_never_go_down_and_times_of_levels_never_up(history: History) -> None:
    """After each event the ack is the same or higher, each level's time the same or earlier, and known stays known."""
    rows: Rows = {}
    for one in numbered(history):
        before = dict(rows)
        folded([one], rows)
        for key, old in before.items():
            new = rows[key]
            assert new.known >= old.known
            if key.table == "message":
                assert (new.values["ack"] or 0) >= (old.values["ack"] or 0)  # type: ignore[operator]
                for name in ("pending_at", "sent_at", "delivered_at", "read_at", "played_at", "failed_at"):
                    if old.values[name] is not None:
                        assert new.values[name] is not None
                        assert new.values[name] <= old.values[name]  # type: ignore[operator]


# Acks


@pytest.mark.parametrize("order", list(itertools.permutations([(2, 5.0), (3, 6.0), (4, 7.0)])))
def test_acks_in_any_order_give_the_highest_level_and_each_time(order: Sequence[tuple[int, float]]) -> None:
    """4, 3, 2 is read, with the time of each level."""
    row = folded(log(*((T.MESSAGE_ACK, message(ack=ack), when) for ack, when in order)))[MESSAGE].values
    assert (row["ack"], row["sent_at"], row["delivered_at"], row["read_at"]) == (4, micros(5), micros(6), micros(7))
    assert row["pending_at"] is None
    assert row["played_at"] is None


def test_played_alone_is_played() -> None:
    """A level may come without those below it."""
    row = folded(log((T.MESSAGE_ACK, message(ack=5), 1)))[MESSAGE].values
    assert (row["ack"], row["played_at"], row["read_at"]) == (5, micros(1), None)


def test_the_earliest_time_of_a_level_stands() -> None:
    """The same ack again, from a second device or a retry, moves no time up."""
    row = folded(
        log((T.MESSAGE_ACK, message(ack=3), 4), (T.MESSAGE_ACK, message(ack=3), 2), (T.MESSAGE_ACK, message(ack=3), 9))
    )
    assert row[MESSAGE].values["delivered_at"] == micros(2)


def test_failure_counts_only_for_ours_that_was_not_delivered() -> None:
    """0 after 3 keeps delivered; 0 alone is failure once the message is known to be ours."""
    delivered = folded(
        log(
            (T.MESSAGE_SENT, message(from_me=True, ack=1), 0),
            (T.MESSAGE_ACK, message(ack=3), 1),
            (T.MESSAGE_ACK, message(ack=0), 2),
        )
    )
    assert delivered[MESSAGE].values["ack"] == 3
    assert message_acks.failed_at(delivered[MESSAGE].values) is None
    refused = log((T.MESSAGE_ACK, message(ack=-1), 2), (T.MESSAGE_ACK, message(ack=0), 3))
    assert message_acks.failed_at(folded(refused)[MESSAGE].values) is None
    ours = folded([*refused, entry(3, T.MESSAGE_SENT, message(from_me=True), 0)])
    assert message_acks.failed_at(ours[MESSAGE].values) == micros(2)
    theirs = folded([*refused, entry(3, T.MESSAGE_RECEIVED, message(from_me=False), 0)])
    assert message_acks.failed_at(theirs[MESSAGE].values) is None


@pytest.mark.parametrize("ack", [None, 99, 6, -7, 0])
def test_an_ack_outside_the_table_changes_nothing(ack: int | None) -> None:
    """Outside a message.ack 0 is a column's default; null and unknown numbers mean nothing anywhere."""
    row = folded(log((T.MESSAGE_RECEIVED, message(ack=ack), 0)))[MESSAGE].values
    assert row["ack"] is None
    assert row["failed_at"] is None


def test_an_ack_before_its_message_leaves_a_stub_that_the_message_makes_known() -> None:
    """An ack alone is findable as such, and nothing of it is lost when the message comes."""
    rows = folded(log((T.MESSAGE_ACK, message(ack=3), 5)))
    assert not rows[MESSAGE].known
    folded([entry(2, T.MESSAGE_SENT, message(body="hi", from_me=True, created_at=at(0)), 0)], rows)
    row = rows[MESSAGE]
    assert row.known
    assert (row.values["ack"], row.values["delivered_at"], row.values["body"]) == (3, micros(5), "hi")


def test_reached_tells_each_new_level_once_with_its_delay() -> None:
    """What feeds the funnel: each level once, the delay where the creation is known, nothing of the contact's own."""
    sent = folded(log((T.MESSAGE_SENT, message(from_me=True, ack=1, created_at=at(0)), 1)))[MESSAGE]
    assert message_acks.reached(None, sent) == [("pending", 1.0)]
    read = folded([entry(2, T.MESSAGE_ACK, message(ack=4), 9.5)], {MESSAGE: sent})[MESSAGE]
    assert message_acks.reached(sent, read) == [("read", 9.5)]
    assert message_acks.reached(read, read) == []
    failed = folded([entry(2, T.MESSAGE_ACK, message(ack=0), 3)], {MESSAGE: sent})[MESSAGE]
    assert message_acks.reached(sent, failed) == [("failed", 3.0)]
    stub = folded(log((T.MESSAGE_ACK, message(ack=2), 1)))[MESSAGE]
    assert message_acks.reached(None, stub) == [("sent", None)]
    inbound = folded(log((T.MESSAGE_RECEIVED, message(from_me=False, ack=3), 1)))[MESSAGE]
    assert message_acks.reached(None, inbound) == []


def test_an_ack_that_was_only_seen_has_no_delay() -> None:
    """It is reached, by then; a time that an event tells later stands if it is not after that, and counts no more."""
    sent = folded(log((T.MESSAGE_SENT, message(from_me=True, ack=1, created_at=at(0)), 1)))[MESSAGE]
    seen = folded([entry(2, T.MESSAGE_OBSERVED, message(from_me=True, ack=4), 3600)], {MESSAGE: sent})[MESSAGE]
    assert message_acks.reached(sent, seen) == [("read", None)]
    ack = message_acks.ack(seen.values)
    assert (ack.level, ack.times["read"], ack.by_then) == (4, micros(3600), ("read",))
    told = folded([entry(3, T.MESSAGE_ACK, message(ack=4), 9)], {MESSAGE: seen})[MESSAGE]
    assert message_acks.reached(seen, told) == []
    ack = message_acks.ack(told.values)
    assert (ack.times["read"], ack.by_then) == (micros(9), ())
    assert folded([entry(3, T.MESSAGE_ACK, message(ack=4), 9)], {MESSAGE: sent})[MESSAGE].values["read_at"] == micros(9)


# Revisions


def revisions(rows: Rows) -> list[fold.Revision]:
    """Return the revisions of the one message in the rows."""
    return fold.revisions(row.values for key, row in rows.items() if key.table == "message_revision")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_an_edit_is_a_revision_numbered_by_time_in_any_order(order: Sequence[int]) -> None:
    """The same id with other content is kept beside the first, and again the same content adds nothing."""
    history = [
        (T.MESSAGE_RECEIVED, message(body="one", media_type="chat"), 1),
        (T.MESSAGE_RECEIVED, message(body="two", media_type="chat"), 2),
        (T.MESSAGE_RECEIVED, message(body="one", media_type="chat"), 3),
    ]
    shown = revisions(folded(log(*(history[index] for index in order))))
    assert [(one.number, one.content["body"], one.first_at) for one in shown] == [
        (1, "one", micros(1)),
        (2, "two", micros(2)),
    ]


def test_a_partial_view_of_a_revision_is_no_revision_of_its_own() -> None:
    """What shows only the body is left out where another row has that body and more; a deletion is kept."""
    rows = folded(
        log(
            (T.MESSAGE_RECEIVED, message(body="one"), 1),
            (T.MESSAGE_RECEIVED, message(body="one", media_type="chat"), 2),
            (T.MESSAGE_RECEIVED, message(body="one", media_type="chat", deleted=True), 3),
            (T.MESSAGE_RECEIVED, message(body=None), 4),
            (T.MESSAGE_ACK, message(ack=3), 5),
        )
    )
    assert [one.content for one in revisions(rows)] == [
        {"body": "one", "media_type": "chat", "deleted": True},
        {"body": None},
    ]


def test_a_url_signed_anew_is_stored_but_is_no_revision_and_no_doubt() -> None:
    """Two URLs at the same time leave one row, in no doubt, and the same one in both orders."""
    history = [
        (T.MESSAGE_RECEIVED, message(body="x", media_url=url), 1) for url in ("https://a/1", "https://a/2", None)
    ]
    shown = [folded(log(*order)) for order in itertools.permutations(history)]
    for rows in shown:
        (one,) = revisions(rows)
        assert one.media_url == rows[MESSAGE].values["media_url"] == "https://a/2"
        assert not rows[MESSAGE].doubtful


# Tickets and contacts


def test_a_stale_snapshot_does_not_close_a_ticket_again() -> None:
    """A message that shows the ticket closed, while a later ticket.updated said open, changes nothing in any order."""
    shown = MessagePayload(message=Message(id="m1"), ticket=Ticket(id="k1", status="closed"))
    history: list[tuple[EventType, Payload, float]]
    history = [(T.MESSAGE_RECEIVED, shown, 1), (T.TICKET_UPDATED, ticket(status="open"), 2)]
    same_second: list[tuple[EventType, Payload, float]]
    same_second = [(T.MESSAGE_RECEIVED, shown, 2), (T.TICKET_UPDATED, ticket(status="open"), 2)]
    for events in (history, history[::-1], same_second, same_second[::-1]):
        row = folded(log(*events))[TICKET]
        assert (row.values["status"], row.doubtful) == ("open", False)


def test_open_closed_open_within_one_second_is_doubtful_in_all_orders_until_observed() -> None:
    """Nobody can tell the order: every one is marked, and an observation, also of that very second, settles it."""
    history = [(T.TICKET_UPDATED, ticket(status=status), 1) for status in ("open", "closed", "open")]
    for order in itertools.permutations(history):
        rows = folded(log(*order))
        assert rows[TICKET].versions["status"].doubtful
        seen = entry(9, T.TICKET_OBSERVED, ticket(status="open", updated_at=at(0)), 1)
        row = folded([seen], rows)[TICKET]
        assert (row.values["status"], row.doubtful) == ("open", False)


def test_open_closed_open_with_times_is_open_in_all_orders() -> None:
    """With `updated_at` of its own each state has its place; closed is never final."""
    history = [
        (T.TICKET_UPDATED, ticket(status="open", updated_at=at(1.1)), 1),
        (T.TICKET_CLOSED, ticket(status="closed", updated_at=at(1.2)), 1),
        (T.TICKET_UPDATED, ticket(status="open", updated_at=at(1.3)), 1),
    ]
    for order in itertools.permutations(history):
        row = folded(log(*order))[TICKET]
        assert (row.values["status"], row.doubtful) == ("open", False)


def test_a_partial_event_hides_no_field_of_another() -> None:
    """Absent is no claim: a newer event with three fields leaves the fourth as it was; null is a claim."""
    rows = folded(
        log(
            (T.CONTACT_UPDATED, ContactPayload(contact=Contact(id="c1", name="Ana", email="a@b.pt", number="1")), 1),
            (T.CONTACT_UPDATED, ContactPayload(contact=Contact(id="c1", name="Ana B", number=None)), 2),
        )
    )
    values = rows[CONTACT].values
    assert (values["name"], values["email"], values["number"]) == ("Ana B", "a@b.pt", None)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_an_id_without_a_name_keeps_the_name_of_that_id(order: Sequence[int]) -> None:
    """In whatever order they come: the last id, with the last name that was told of it; another one's is not shown."""
    refs = [Ref(id="1", name="Ana"), Ref(id="2"), None, Ref(id="1")]
    entries = [entry(n, T.TICKET_UPDATED, ticket(user=ref), n) for n, ref in enumerate(refs, 1)]
    rows: Rows = {}
    for index in order:
        folded([entries[index]], rows)
        named = (rows[TICKET].values["user_id"], rows[TICKET].values["user_name"])
        assert named in {(None, None), ("1", None), ("1", "Ana"), ("2", None)}
    assert (rows[TICKET].values["user_id"], rows[TICKET].values["user_name"]) == ("1", "Ana")


def test_a_name_alone_is_shown_until_nobody_is_there() -> None:
    """A name without an id is somebody, whose name no other id gets, and null ends it."""
    history = [(T.TICKET_UPDATED, ticket(user=ref), n) for n, ref in enumerate((Ref(name="Ana"), Ref(id="1"), None))]
    shown = [folded(log(*history[:n]))[TICKET].values for n in (1, 2, 3)]
    assert [(one["user_id"] or None, one["user_name"]) for one in shown] == [(None, "Ana"), ("1", None), (None, None)]


def test_agent_and_queue_are_two_registers_each() -> None:
    """A name never stands beside another one's id."""
    rows = folded(
        log(
            (T.TICKET_UPDATED, ticket(user=Ref(id="1", name="Ana"), queue=Ref(id="7", name="Sales")), 1),
            (T.TICKET_UPDATED, ticket(user=Ref(id="2"), queue=None), 2),
            (T.TICKET_UPDATED, ticket(user=Ref()), 3),
        )
    )
    values = rows[TICKET].values
    assert (values["user_id"], values["user_name"], values["queue_id"], values["queue_name"]) == ("2", None, None, None)


def test_who_is_only_named_becomes_a_stub() -> None:
    """Ticket and contact that a message names are there, unknown and tied together, until their own event comes."""
    named = message(body="hi", ticket_id="k1", contact_id="c1")
    rows = folded(log((T.MESSAGE_RECEIVED, named, 1)))
    assert not rows[TICKET].known
    assert not rows[CONTACT].known
    assert rows[TICKET].values["contact_id"] is None, "who wrote a message is not whose the ticket is"
    assert (rows[MESSAGE].values["ticket_id"], rows[MESSAGE].values["contact_id"]) == ("k1", "c1")
    folded([entry(2, T.TICKET_CREATED, ticket(status="open", contact_id="c2"), 0)], rows)
    assert rows[TICKET].known
    assert rows[TICKET].values["contact_id"] == "c2"


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_contact_beside_a_message_fills_and_never_changes(order: Sequence[int]) -> None:
    """Of a ticket and of a message: whoever says it better stands, however late the others come."""
    group = Contact(id="c1", is_group=True)
    beside = MessagePayload(message=Message(id="m1"), ticket=Ticket(id="k1"), contact=Contact(id="c2"))
    history: list[tuple[EventType, Payload, float]] = [
        (T.TICKET_CREATED, ticket(contact_id="c1"), 1),
        (T.MESSAGE_RECEIVED, MessagePayload(message=Message(id="m1", contact_id="c3"), ticket=Ticket(id="k1")), 2),
        (T.MESSAGE_ACK, beside, 30),
        (T.MESSAGE_ACK, msgspec.structs.replace(beside, contact=group), 40),
    ]
    rows = folded(log(*(history[index] for index in order)))
    assert (rows[TICKET].values["contact_id"], rows[TICKET].doubtful) == ("c1", False)
    assert (rows[MESSAGE].values["contact_id"], rows[MESSAGE].doubtful) == ("c3", False)
    alone = folded(log(history[2], history[3]))
    assert alone[TICKET].values["contact_id"] == "c1", "the later one, where nobody else says it"
    assert alone[MESSAGE].values["contact_id"] == "c2", "a group writes nothing"


def test_a_message_that_is_quoted_is_one_of_its_own() -> None:
    """It becomes a stub, and nothing of it is mixed with the one that quotes it."""
    rows = folded(log((T.MESSAGE_RECEIVED, message(body="x", quoted_message_id="m0"), 1)))
    quoted = rows[Key("message", "t1", "m0")]
    assert (quoted.known, quoted.values["body"], quoted.versions) == (False, None, {})
    assert rows[MESSAGE].known


def test_an_ack_that_carries_the_message_makes_it_known() -> None:
    """With its body, even a null one, the message was seen; an ack with less leaves a stub."""
    for shown, known in (({"body": None}, True), ({"body": "x"}, True), ({"from_me": True, "ticket_id": "k1"}, False)):
        assert folded(log((T.MESSAGE_ACK, message(ack=2, **shown), 1)))[MESSAGE].known is known


def test_a_ticket_takes_its_contact_from_where_it_is_shown() -> None:
    """By id, nested, or beside; null where the vendor says so; and a stub where two are named."""
    for payload in (
        ticket(contact_id="c1"),
        ticket(contact=Contact(id="c1", name="Ana")),
        TicketPayload(ticket=Ticket(id="k1"), contact=Contact(id="c1")),
        ticket(contact_id="c1", contact=Contact(id="c2")),
    ):
        rows = folded(log((T.TICKET_CREATED, payload, 1)))
        assert rows[TICKET].values["contact_id"] == "c1"
        assert rows[TICKET].versions["contact_id"].rank == OWN
        assert not rows[CONTACT].known
    rows = folded(log((T.TICKET_CREATED, ticket(contact_id="c1"), 1), (T.TICKET_UPDATED, ticket(contact=None), 2)))
    assert rows[TICKET].values["contact_id"] is None


def test_one_event_that_shows_a_contact_twice_is_the_same_each_time() -> None:
    """The contact in the ticket and the one beside it differ: the latter stands, in doubt, however often it is read."""
    payload = TicketPayload(
        ticket=Ticket(id="k1", contact=Contact(id="c1", name="Ana")), contact=Contact(id="c1", name="Anna")
    )
    entries = log((T.TICKET_CREATED, payload, 1))
    row = folded(entries)[CONTACT]
    assert row.values["name"] == "Anna"
    assert row.versions["name"].doubtful
    assert folded(entries * 2)[CONTACT] == row


def test_an_observation_counts_by_the_time_of_its_page() -> None:
    """Its `updated_at` is a field only: an event after the page's time stands, one before it does not."""
    seen = entry(9, T.TICKET_OBSERVED, ticket(status="pending", updated_at=at(100)), 5)
    later = folded([*log((T.TICKET_UPDATED, ticket(status="closed"), 6)), seen])[TICKET]
    assert (later.values["status"], later.values["updated_at"]) == ("closed", micros(100))
    earlier = folded([*log((T.TICKET_UPDATED, ticket(status="closed"), 4)), seen])[TICKET]
    assert earlier.values["status"] == "pending"


def test_a_list_says_where_a_message_is_only_if_nobody_else_does() -> None:
    """An event's ticket stands against any later observation; alone, the latest observation's is taken."""
    here, there = message(ticket_id="k1"), message(ticket_id="k2")
    own = [(T.MESSAGE_SENT, here, 1), (T.MESSAGE_OBSERVED, there, 50)]
    for events in (own, own[::-1]):
        row = folded(log(*events))[MESSAGE]
        assert (row.values["ticket_id"], row.doubtful) == ("k1", False)
    seen = [(T.MESSAGE_OBSERVED, there, 50), (T.MESSAGE_OBSERVED, here, 60)]
    for events in (seen, seen[::-1]):
        row = folded(log(*events))[MESSAGE]
        assert (row.values["ticket_id"], row.doubtful) == ("k1", False)


def test_what_is_gone_is_marked_and_stays_as_it_was() -> None:
    """That the vendor no longer has it is one register more: no other changes, and a later sight takes it back."""
    rows = folded(log((T.TICKET_CREATED, ticket(status="open"), 1), (T.TICKET_OBSERVED, ticket(gone=True), 5)))
    values = rows[TICKET].values
    assert (values["gone"], values["status"], rows[TICKET].known) == (True, "open", True)
    for seconds, gone in ((4, True), (6, False)):
        seen = entry(3, T.TICKET_OBSERVED, ticket(status="open", gone=False), seconds)
        assert folded([seen], dict(rows))[TICKET].values["gone"] is gone


@pytest.mark.parametrize(
    ("event_type", "payload", "key"),
    [
        (T.MESSAGE_OBSERVED, message(gone=True), MESSAGE),
        (T.TICKET_OBSERVED, ticket(gone=True), TICKET),
        (T.CONTACT_OBSERVED, ContactPayload(contact=Contact(id="c1", gone=True)), CONTACT),
        (T.CAMPAIGN_OBSERVED, CampaignPayload(campaign=Campaign(id="p1", gone=True)), Key("campaign", "t1", "p1")),
    ],
)
def test_to_be_told_that_it_is_gone_is_not_to_see_it(event_type: EventType, payload: Payload, key: Key) -> None:
    """Of every entity: a stub that is gone stays a stub."""
    row = folded(log((event_type, payload, 1)))[key]
    assert (row.known, row.values["gone"]) == (False, True)


def test_a_clock_far_ahead_does_not_win_for_years() -> None:
    """A version time is at most five minutes after our own clock."""
    ahead = entry(1, T.TICKET_UPDATED, ticket(status="open", updated_at=at(10**8)), 10**8, received=0)
    assert folded([ahead])[TICKET].versions["status"].time == micros(300)
    after = entry(2, T.TICKET_CLOSED, ticket(status="closed"), 301)
    assert folded([ahead, after])[TICKET].values["status"] == "closed"


def test_without_any_time_of_the_vendor_our_clock_counts() -> None:
    """Neither `updated_at` nor a readable timestamp: received_at."""
    assert folded([entry(1, T.TICKET_UPDATED, ticket(status="open"), None, received=7)])[TICKET].versions[
        "status"
    ].time == micros(7)


def test_an_own_event_after_an_observation_makes_doubt_and_another_observation_ends_it() -> None:
    """Stamped before it, and another value: late, or by a clock that is behind. An event before it, or one that says
    the same, makes none, and one that is newer wins.
    """
    seen = entry(5, T.TICKET_OBSERVED, ticket(status="open"), 100)
    late = entry(7, T.TICKET_CLOSED, ticket(status="closed"), 50, received=200)
    agrees = entry(8, T.TICKET_UPDATED, ticket(status="open"), 60, received=210)
    again = entry(9, T.TICKET_OBSERVED, ticket(status="closed"), 300)
    newer = entry(9, T.TICKET_CLOSED, ticket(status="closed"), 101)
    early = entry(4, T.TICKET_CLOSED, ticket(status="closed"), 50)
    beside = MessagePayload(message=Message(id="m1"), ticket=Ticket(id="k1", status="closed"))
    for entries, status, doubt in (
        ([seen, late], "open", True),
        ([seen, late, agrees], "open", True),
        ([seen, agrees], "open", False),
        ([early, seen], "open", False),
        ([seen, late, again], "closed", False),
        ([seen, late, newer], "closed", False),
        ([seen, entry(7, T.MESSAGE_SENT, beside, 50)], "open", False),
    ):
        for order in itertools.permutations(entries):
            row = folded(order)[TICKET]
            assert (row.values["status"], row.doubtful) == (status, doubt), [one.position for one in order]
    assert folded([seen, late])[TICKET].versions["status"].latest == 7


@pytest.mark.parametrize(
    ("seconds", "updated", "status", "doubt"),
    [
        (0, None, "closed", False),
        (0.1, None, "closed", True),
        (5, None, "closed", True),
        (5.000001, None, "open", False),
        (-0.1, None, "closed", False),
        (0.1, 0.1, "open", False),
        (0.1, -3, "closed", False),
    ],
)
def test_what_was_loaded_before_changes_nothing(
    seconds: float, updated: float | None, status: str, *, doubt: bool
) -> None:
    """Five seconds after a close a message may show the ticket as it was; a time of its own tells when that was."""
    shown = Ticket(id="k1", status="open", updated_at=UNSET if updated is None else at(10 + updated))
    history: list[tuple[EventType, Payload, float]] = [
        (T.TICKET_CLOSED, ticket(status="closed"), 10),
        (T.MESSAGE_SENT, MessagePayload(message=Message(id="m1"), ticket=shown), 10 + seconds),
    ]
    for events in (history, history[::-1]):
        row = folded(log(*events))[TICKET]
        assert (row.values["status"], row.doubtful) == (status, doubt)
    confirmed = folded(log(*history, (T.TICKET_UPDATED, ticket(status="closed"), 16)))[TICKET]
    assert (confirmed.values["status"], confirmed.doubtful) == ("closed", False)


def test_what_arrival_alone_decided_is_doubtful_until_a_time_confirms_it() -> None:
    """Without a time the later arrival is shown, in doubt, in either order; a value that was told with a time after
    all others is none, and so is one that nothing contradicts.
    """
    first = entry(1, T.TICKET_UPDATED, ticket(status="open"), None, received=10)
    second = entry(2, T.TICKET_CLOSED, ticket(status="closed"), None, received=20)
    confirmed = entry(3, T.TICKET_UPDATED, ticket(status="closed"), 15, received=30)
    contradicted = entry(4, T.TICKET_UPDATED, ticket(status="open"), 16, received=30)
    later = entry(5, T.TICKET_UPDATED, ticket(status="open"), 21, received=30)
    for entries, status, doubt in (
        ([first], "open", False),
        ([first, second], "closed", True),
        ([first, second, confirmed], "closed", False),
        ([first, second, confirmed, contradicted], "closed", True),
        ([first, second, later], "open", False),
    ):
        for order in itertools.permutations(entries):
            row = folded(order)[TICKET]
            assert (row.values["status"], row.doubtful) == (status, doubt), [one.position for one in order]


def test_two_clocks_far_ahead_leave_doubt() -> None:
    """Both count as five minutes after they came: arrival alone decided between them."""
    ahead = [entry(n, T.TICKET_UPDATED, ticket(status=s), 10**8 - n, received=n) for n, s in ((1, "a"), (2, "b"))]
    row = folded(ahead)[TICKET]
    assert (row.values["status"], row.doubtful) == ("b", True)


def test_tenants_share_no_row() -> None:
    """The same ids of two tenants are two rows."""
    rows = folded(
        [entry(1, T.TICKET_CREATED, ticket(status="a")), entry(2, T.TICKET_CREATED, ticket(status="b"), tenant="t2")]
    )
    assert {key.tenant: row.values["status"] for key, row in rows.items()} == {"t1": "a", "t2": "b"}


def test_an_event_without_a_subject_is_invalid() -> None:
    """It can be applied to nothing, so it is parked."""
    one = entry(1, T.MESSAGE_ACK, MessagePayload(message=Message(ack=3)))
    with pytest.raises(InvalidEventError, match="no_id"):
        fold.claims(one.event, decode(one.event))


def test_the_place_below_all_times_is_below_all_times() -> None:
    """From the year 1 to 9999, the shifted times are all before the real ones."""
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert to_micros(last) - BELOW < to_micros(first)
    assert to_micros(EPOCH) == 0


def test_a_message_that_does_not_say_whose_it_is_goes_by_its_events_name() -> None:
    """Received is the contact's, sent is ours, whatever stands for `fromMe` but true and false; what is told wins."""
    for kind, ours in ((T.MESSAGE_RECEIVED, False), (T.MESSAGE_SENT, True)):
        for said in (UNSET, None):
            rows = folded(log((kind, message(body="x", from_me=said), 1)))
            assert rows[MESSAGE].values["from_me"] is ours
        rows = folded(log((kind, message(body="x"), 1), (T.MESSAGE_ACK, message(from_me=not ours, ack=2), 0)))
        assert rows[MESSAGE].values["from_me"] is not ours
