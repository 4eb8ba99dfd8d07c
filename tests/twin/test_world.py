"""The seeded world: its stream and its truth."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice

import pytest

from servers.each_dialect import EACH_DIALECT
from whatsms_events.domain.events import OURS, EventType, MessagePayload, decode
from whatsms_events.domain.normalize import normalize
from whatsms_events.twin.account import Webhook
from whatsms_events.twin.dialects import DIALECTS, write
from whatsms_events.twin.world import NATURAL_PACE, World

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
TENANT = "6f1d3a52-1111-4222-8333-944445555666"
NINE = set(EventType) - OURS


def world(seed: int = 1, dialect: str = "documented", pace: float = NATURAL_PACE, keep: int = 20_000) -> World:
    """Make a world as most tests want it."""
    return World(seed, start=START, tenant_id=TENANT, dialect=DIALECTS[dialect], pace=pace, keep=keep)


@cache
def _told_so_far(seed: int, dialect: str) -> tuple[Iterator[Webhook], list[Webhook]]:
    return world(seed, dialect).webhooks(), []


def stream(count: int, seed: int = 1, dialect: str = "documented") -> list[Webhook]:
    """Take the first webhooks of a world. Worlds are made once for all tests, and told on where one asks for more."""
    more, told = _told_so_far(seed, dialect)
    told += islice(more, max(0, count - len(told)))
    return told[:count]


def told(webhooks: Sequence[Webhook], *types: EventType) -> list[dict[str, dict[str, object]]]:
    """Give the `data` of the webhooks of these types, as the vendor's JSON."""
    return [json.loads(webhook.body)["data"] for webhook in webhooks if webhook.event_type in types]


@EACH_DIALECT
def test_the_same_seed_sends_the_same_bytes(dialect: str) -> None:
    """Two worlds of one seed and start agree on every byte, type and time; another seed does not."""
    assert list(islice(world(dialect=dialect).webhooks(), 3000)) == stream(3000, dialect=dialect)
    assert stream(50, seed=2, dialect=dialect) != stream(50, dialect=dialect)


def test_a_stream_that_was_left_goes_on_where_it_was() -> None:
    """A second iterator over one world neither repeats nor skips a webhook."""
    one = world()
    parts = [*islice(one.webhooks(), 3), *islice(one.webhooks(), 100), *islice(one.webhooks(), 397)]
    assert parts == stream(500)


def test_advancing_the_clock_sends_what_stepping_would() -> None:
    """The caller's clock and the world's own give the same stream, and the clock stands where it was set."""
    one = world()
    pieces = [one.advance(START + timedelta(seconds=10 * n)) for n in range(1, 7)]
    assert one.now == START + timedelta(seconds=60)
    together = [webhook for piece in pieces for webhook in piece]
    assert len(together) > 50
    assert together == stream(len(together))


@EACH_DIALECT
def test_all_nine_types_appear_within_the_first_few_hundred(dialect: str) -> None:
    """A demonstration of 20 seconds shows every event type, campaigns included, whatever the seed."""
    for seed in range(25):
        assert {webhook.event_type for webhook in stream(400, seed, dialect)} == NINE, seed


def test_the_mix_is_that_of_a_helpdesk() -> None:
    """About 60 % are acks, 25 % messages, 10 % tickets, 5 % contacts; campaigns are rare."""
    count = 40_000
    types = Counter(webhook.event_type for webhook in stream(count))
    acks = types[EventType.MESSAGE_ACK] / count
    share: Counter[str] = Counter()
    for event_type, times in types.items():
        share[event_type.split(".")[0]] += times
    assert 0.52 < acks < 0.66
    assert 0.20 < share["message"] / count - acks < 0.33
    assert 0.07 < share["ticket"] / count < 0.13
    assert 0.03 < share["contact"] / count < 0.07
    assert 0 < share["campaign"] / count < 0.005


@pytest.mark.parametrize("pace", [0.5, NATURAL_PACE, 200.0])
def test_the_pace_is_what_was_asked(pace: float) -> None:
    """The world's clock moves so that `pace` events come in each of its seconds, life going faster with it."""
    one = world(pace=pace)
    count = sum(1 for _ in islice(one.webhooks(), 30_000))
    assert 0.8 < count / (one.now - START).total_seconds() / pace < 1.2


@EACH_DIALECT
def test_every_body_becomes_an_event(dialect: str) -> None:
    """What the world says in each dialect, first tries and retries, is read by the service as the type it is."""
    for webhook in stream(6000, dialect=dialect):
        for body in (webhook.body, webhook.retry or webhook.body):
            event = normalize(body, tenant=TENANT, received_at=START)
            assert event.type is webhook.event_type
            assert event.subject is not None
            assert event.occurred_at is not None
            decode(event)


def test_bodies_are_written_as_node_would() -> None:
    """No blanks, accents and emoji as UTF-8, the documented envelope in its order, milliseconds and Z."""
    body = next(webhook.body for webhook in stream(500) if webhook.event_type is EventType.MESSAGE_RECEIVED)
    start = (
        f'{{"event":"message.received","tenantId":"{TENANT}","timestamp":"2026-01-15T10:30:00.000Z","data":{{"message":'
    )
    assert body.decode().startswith(start)
    assert write({"nome": 'João "Zé" 😀\n/\x01'}) == '{"nome":"João \\"Zé\\" 😀\\n/\\u0001"}'.encode()
    assert write({"meio": "a\ud83d"}) == b'{"meio":"a\\ud83d"}'


def test_an_emoji_is_cut_in_half_at_times() -> None:
    """`lastMessage` is cut at 255 UTF-16 units, so that now and then half an emoji is sent."""
    halves = [webhook for webhook in stream(30_000) if rb"\ud83d" in webhook.body]
    assert halves
    for webhook in halves:
        data = json.loads(webhook.body)["data"]
        assert data["ticket"]["lastMessage"].endswith("\ud83d")
        assert len(data["ticket"]["lastMessage"]) == 255


def test_tickets_live() -> None:
    """Tickets go from pending to open to closed; some come back, some contacts get another one."""
    states: dict[object, list[object]] = {}
    contacts: dict[object, set[object]] = {}
    for data in told(stream(40_000), EventType.TICKET_CREATED, EventType.TICKET_UPDATED, EventType.TICKET_CLOSED):
        ticket = data["ticket"]
        states.setdefault(ticket["id"], []).append(ticket["status"])
        contact = ticket["contact"]
        assert isinstance(contact, dict)
        contacts.setdefault(contact["id"], set()).add(ticket["id"])
    histories = Counter("-".join(str(state) for state in history) for history in states.values())
    assert histories["pending-open-closed"] > 100
    assert any("closed-pending-open-closed" in history for history in histories)
    assert any(len(tickets) > 1 for tickets in contacts.values())


def test_edits_come_as_a_second_message_with_the_same_id() -> None:
    """Some ids are received twice: with another body, or deleted."""
    bodies: dict[object, set[object]] = {}
    deleted = 0
    for data in told(stream(30_000), EventType.MESSAGE_RECEIVED):
        bodies.setdefault(data["message"]["id"], set()).add(data["message"]["body"])
        deleted += "isDeleted" in data["message"]
    assert sum(len(seen) > 1 for seen in bodies.values()) > 20
    assert deleted > 5


def test_acks_are_as_wild_as_research_found() -> None:
    """Failures, null, played, doubled, downwards, of inbound messages, and before the message they are about."""
    acks: dict[object, list[object]] = {}
    early = inbound = 0
    known: dict[object, bool] = {}
    for webhook in stream(60_000):
        data = json.loads(webhook.body)["data"]
        if webhook.event_type is EventType.MESSAGE_ACK:
            acks.setdefault(data["message"]["id"], []).append(data["message"]["ack"])
            early += data["message"]["id"] not in known
            inbound += known.get(data["message"]["id"]) is False
        elif "message" in data:
            known[data["message"]["id"]] = data["message"]["fromMe"]
    histories = Counter(tuple(history) for history in acks.values())
    assert histories[2, 3, 4] > 1000
    assert histories[0,] > 10
    assert histories[0, 2, 3, 4] > 0
    assert any(history[-1] == 5 for history in histories)
    assert any(None in history for history in histories)
    assert any(history[:3] == (2, 4, 3) for history in histories)
    assert early > 50
    assert inbound > 1000


def test_contacts_are_updated_without_change() -> None:
    """Most `contact.updated` say nothing new, and some do."""
    last: dict[object, dict[str, object]] = {}
    same = changed = 0
    for data in told(stream(30_000), EventType.CONTACT_CREATED, EventType.CONTACT_UPDATED):
        contact = {key: value for key, value in data["contact"].items() if key != "updatedAt"}
        if contact["id"] in last:
            same += contact == last[contact["id"]]
            changed += contact != last[contact["id"]]
        last[contact["id"]] = contact
    assert same > changed > 50


@pytest.mark.parametrize("dialect", ["documented", "flat", "integers"])
def test_what_is_told_is_the_truth(dialect: str) -> None:
    """Once all late webhooks are out, the newest word on each contact and campaign is what the account shows."""
    one = world(3, dialect)
    newest: dict[str, dict[str, object]] = {}
    for webhook in islice(one.webhooks(), 20_000):
        data = json.loads(webhook.body)["data"]
        if webhook.event_type.startswith("contact."):
            contact = data if dialect == "flat" else data["contact"]
            known = newest.setdefault(contact["id"], contact)
            if contact.get("updatedAt", "") >= known.get("updatedAt", ""):
                newest[contact["id"]] = contact
    late = {
        contact.id for contact in one.account.contacts.values() if one.now - contact.updated_at < timedelta(seconds=60)
    }
    assert newest.keys() <= one.account.contacts.keys()
    for contact_id, contact in newest.items():
        if contact_id not in late:
            shown = one.account.show_contact(one.account.contacts[contact_id], updated="updatedAt" in contact)
            assert contact == shown


def test_acks_of_the_truth_never_go_down() -> None:
    """The account keeps each message's highest ack, and a failure only before delivery."""
    one = world(4)
    highest: dict[str, int] = {}
    for webhook in islice(one.webhooks(), 20_000):
        if webhook.event_type is EventType.MESSAGE_ACK:
            payload = decode(normalize(webhook.body, tenant=TENANT, received_at=START))
            assert isinstance(payload, MessagePayload)
            if isinstance(payload.message.ack, int):
                message_id = str(payload.message.id)
                highest[message_id] = max(highest.get(message_id, 0), payload.message.ack)
    assert all(one.account.messages[message_id].ack >= ack for message_id, ack in highest.items())


def test_a_world_does_not_grow_without_end() -> None:
    """Beyond `keep` tickets the oldest are forgotten with their messages and contacts, and life goes on."""
    one = world(keep=50)
    for _ in islice(one.webhooks(), 40_000):
        assert len(one.account.tickets) <= 51
    assert len(one.account.contacts) < 200
    assert len(one.account.messages) < 2000
    assert one.account.tickets_of.keys() == one.account.contacts.keys()


def test_dialects_differ_where_the_page_is_silent() -> None:
    """Integer ids, flat data, whole seconds, no `updatedAt`, ack 0, and retries that have other bytes."""
    ticket = told(stream(200, dialect="integers"), EventType.TICKET_UPDATED)[0]["ticket"]
    assert isinstance(ticket["id"], int)
    flat = json.loads(next(w.body for w in stream(200, dialect="flat") if w.event_type is EventType.MESSAGE_ACK))[
        "data"
    ]
    assert flat.keys() == {"messageId", "ticketId", "ack"}
    assert b'"timestamp":"2026-01-15T10:30:00Z"' in stream(1, dialect="seconds")[0].body
    assert all(b"updatedAt" not in webhook.body for webhook in stream(500, dialect="no-updated-at"))
    sent = told(stream(200, dialect="zero-acks"), EventType.MESSAGE_RECEIVED, EventType.MESSAGE_SENT)
    assert all(data["message"]["ack"] == 0 for data in sent)
    for webhook in stream(100, dialect="rewritten"):
        assert webhook.retry is not None
        assert webhook.retry != webhook.body
        assert json.loads(webhook.retry) == json.loads(webhook.body)
    for webhook in stream(100, dialect="send-time"):
        assert webhook.retry is not None
        first, second = json.loads(webhook.body), json.loads(webhook.retry)
        assert first["data"] == second["data"]
        assert first["timestamp"] < second["timestamp"]
    assert all(webhook.retry is None for webhook in stream(100))


GOLDEN = {
    "documented": "f0aef3ab754252bc",
    "seconds": "5913a3348d468d46",
    "flat": "674e660cbcafb76b",
    "integers": "458db8dfbc535cf9",
    "send-time": "144829f7a963ac95",
    "rewritten": "00e470b7004e49a7",
    "no-updated-at": "70c6003b94f46893",
    "zero-acks": "3d2eb92353286382",
}
"""The first 16 digits of the SHA-256 of 12,000 webhooks, taken when the twin had no REST half yet."""


@EACH_DIALECT
def test_a_seed_gives_the_bytes_that_it_always_gave(dialect: str) -> None:
    """The bytes of a seed are the same in each release: whoever wrote down a seed gets his story again."""
    digest = hashlib.sha256()
    for webhook in islice(World(1, start=START, tenant_id="t", dialect=DIALECTS[dialect]).webhooks(), 12_000):
        digest.update(webhook.body + (webhook.retry or b"") + webhook.due.isoformat().encode())
    assert digest.hexdigest()[:16] == GOLDEN[dialect]


def test_a_paused_world_only_says_what_is_told_it() -> None:
    """While it is paused nothing happens by itself, its clock goes on, and what a verb announces is sent."""
    one = world()
    one.advance(START + timedelta(seconds=300))
    one.pause()
    one.pause()
    assert one.paused
    one.advance(START + timedelta(seconds=310))  # what was held up before is still sent
    assert one.advance(START + timedelta(hours=1)) == []
    assert one.now == START + timedelta(hours=1)
    ticket = next(iter(one.account.tickets.values()))
    one.account.touch_ticket(ticket)
    assert {webhook.event_type for webhook in one.advance(one.now + timedelta(seconds=10))} <= {
        EventType.TICKET_UPDATED,
        EventType.TICKET_CLOSED,
    }


def test_life_goes_on_where_it_was_paused() -> None:
    """After a pause people do the same as without it, later by its length; nothing comes in a burst."""
    pause = timedelta(hours=5)
    one, other = world(), world()
    for each in (one, other):
        each.advance(START + timedelta(seconds=300))
    one.pause()
    late = one.advance(START + timedelta(seconds=300) + pause)
    one.resume()
    one.resume()
    assert not one.paused
    after = one.advance(START + timedelta(seconds=600) + pause)
    expected = other.advance(START + timedelta(seconds=600))
    assert abs(len(late) + len(after) - len(expected)) <= 3  # those that were under way came at their time
    assert len(after) > 100
    assert max(webhook.due for webhook in after[:10]) < START + timedelta(seconds=330) + pause
    types = [webhook.event_type for webhook in [*late, *after]]
    assert sum(one is other for one, other in zip(types, [w.event_type for w in expected], strict=False)) > 50


def test_what_is_asked_of_a_paused_world_waits_for_its_end() -> None:
    """A message that came through the API in a pause is acknowledged soon after it, not a pause later."""
    one = world()
    one.advance(START + timedelta(seconds=60))
    one.pause()
    one.advance(START + timedelta(hours=1))
    ticket = next(iter(one.account.tickets.values()))
    message = one.account.add_message(ticket.contact, ticket, "Olá", from_me=True)
    one.account.asked.append(message)
    one.advance(START + timedelta(hours=2))
    assert message.ack == 1
    one.resume()
    one.advance(one.now + timedelta(seconds=30))
    assert message.ack != 1


def test_what_the_vendor_deletes_is_gone_without_a_word() -> None:
    """A removed contact, ticket, message and campaign are in no list, and life says nothing of them any more."""
    one = world()
    one.advance(START + timedelta(seconds=120))
    one.pause()
    while one.advance(one.now + timedelta(seconds=60)):
        pass  # what was said before arrives
    one.resume()
    account = one.account
    contact_id = next(iter(account.contacts))
    tickets = [ticket.id for ticket in account.tickets_of[contact_id]]
    other = next(ticket for ticket in account.tickets.values() if ticket.contact.id != contact_id)
    message = other.messages[0]
    campaign_id = next(iter(account.campaigns))
    account.remove_message(message.id)
    account.remove_ticket(other.id)
    account.remove_contact(contact_id)
    account.remove_campaign(campaign_id)
    account.outbox.clear()
    gone = {contact_id, other.id, message.id, campaign_id, *tickets}
    for webhook in one.advance(START + timedelta(hours=2)):
        named = json.loads(webhook.body)["data"]
        assert not {part["id"] for part in named.values() if part is not None and "id" in part} & gone
    assert contact_id not in account.contacts
    assert contact_id not in account.tickets_of
    assert not gone & (account.contacts.keys() | account.tickets.keys() | account.messages.keys())
    assert all(held.ticket is None or held.ticket.id not in gone for held in account.messages.values())
    with pytest.raises(KeyError):
        account.remove_ticket(other.id)


def test_messages_of_forgotten_campaigns_are_forgotten() -> None:
    """What a campaign sent goes with it, so that a world that runs for ever keeps no message for ever."""
    one = world(keep=50)
    for _ in islice(one.webhooks(), 40_000):
        pass
    held = {message.id for campaign in one.account.campaigns.values() for message in campaign.messages}
    loose = {message.id for message in one.account.messages.values() if message.ticket is None}
    assert loose == held
