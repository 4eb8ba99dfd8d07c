"""Whatever somebody wrote, a page shows it as text: every template of these pages, with values Hypothesis finds."""

from datetime import timedelta
from types import MappingProxyType
from typing import Any

from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.examples import examples
from web.console.pages import TENANTS
from web.console.seeded import AT, EVIL, SCRIPT
from web.console.test_conversations import assert_harmless
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.delays import OUTCOMES, RANGES, PeriodPart
from whatsms_events.domain.scopes import SCOPES
from whatsms_events.storage.acks import Failed, FailedPage, Stuck, StuckPage
from whatsms_events.storage.conversations import AGES, Found, FoundPage, StatusAges, Talk
from whatsms_events.storage.trace import Confirmed
from whatsms_events.web.access import Access, Holder
from whatsms_events.web.console import acks, conversations
from whatsms_events.web.console.assets import shipped_assets
from whatsms_events.web.console.bubbles import days
from whatsms_events.web.console.frame import Brought, Frame, Visit
from whatsms_events.web.console.places import place
from whatsms_events.web.console.sessions import Sessions

TEXTS = st.one_of(
    st.sampled_from(
        (EVIL, SCRIPT, "", "\u202e", "\ud800", "]]>", "--><script>", "' onclick='x", "{{ 7 }}", "data:text/html,x")
    ),
    st.text(max_size=30),
    st.builds("http://{}".format, st.text(alphabet="\"'<> \t/:@\u202ea", max_size=10)),
)
WORDS = st.none() | TEXTS


def row(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows with these columns."""
    return st.fixed_dictionaries(columns)


TIMES = st.none() | st.integers(0, 10_000).map(lambda minutes: AT - timedelta(minutes=minutes))
ACKS = row(
    level=st.none(), name=st.sampled_from((None, *LEVELS.values())), by_then=st.just(["read"]),
    **{f"{name}_at": TIMES for name in (*LEVELS.values(), "failed")},
)  # fmt: skip
REVISIONS = st.lists(
    row(first_at=st.just(AT), media_url=WORDS, long=st.booleans(), body=WORDS, media_type=WORDS), max_size=2
)
QUOTED = st.none() | row(id=TEXTS, body=WORDS, from_me=st.none(), deleted=st.booleans(), media_type=WORDS)
MESSAGES = row(
    id=TEXTS, ticket_id=TEXTS, contact_id=WORDS, from_me=st.sampled_from((True, False, None)), body=WORDS,
    media_type=WORDS, media_url=WORDS, deleted=st.booleans(), quoted_message_id=WORDS, created_at=TIMES, ack=ACKS,
    known=st.booleans(), gone=st.booleans(), doubtful=st.lists(TEXTS, max_size=1), revisions=REVISIONS, quoted=QUOTED,
    body_chars=st.just(10**7),
)  # fmt: skip
NAMES = st.none() | row(id=TEXTS, name=WORDS)
CONTACTS = row(id=TEXTS, name=WORDS, number=WORDS, is_group=st.booleans())
TICKETS = row(
    id=TEXTS, status=WORDS, channel=WORDS, contact_id=WORDS, user=NAMES, queue=NAMES, last_message=WORDS,
    created_at=TIMES, updated_at=TIMES, known=st.booleans(), gone=st.booleans(), doubtful=st.lists(TEXTS, max_size=1),
    contact=st.none() | CONTACTS,
)  # fmt: skip


FRAME = Frame(Sessions(Access([]), now=lambda: AT), shipped_assets(), TENANTS, now=lambda: AT)


def rendered(template: str, **values: Any) -> str:
    """Return a page for somebody who may see and do everything."""
    visit = Visit(FRAME, make_mocked_request("GET", "/"), Holder("ops", SCOPES), "0" * 64, AT)
    body = visit.page(template, place=place, **values).body
    assert isinstance(body, bytes)
    return body.decode()


@given(TICKETS, st.none() | CONTACTS, st.lists(MESSAGES, max_size=3))
@settings(max_examples=examples(60))
def test_a_conversation_is_harmless(ticket: dict[str, Any], contact: Any, messages: list[dict[str, Any]]) -> None:
    """Every text of a ticket, of its contact, and of its messages with what stood there before."""
    rest = Confirmed(None, None, None, None, None, compared=False, differed=None)
    page = rendered(
        "ticket.html", slug="shop", keyed=True, ticket=ticket, contact=Brought(contact), rest=Brought(rest),
        talk=Brought(Talk([], None)), days=days(messages), older=None, newest=True, gap=True,
        untimed=2, oldest="/", told_status=None, ticket_id=ticket["id"],
    )  # fmt: skip
    assert_harmless(page)


@given(TEXTS, st.lists(TICKETS, max_size=2), st.none() | CONTACTS, WORDS)
@settings(max_examples=examples(60))
def test_lists_of_conversations_are_harmless(typed: str, tickets: list[Any], contact: Any, status: str | None) -> None:
    """What was typed and what was found, a list of tickets, and statuses that are no words."""
    found = FoundPage([Found("name", contact, tickets, tickets_complete=contact is None)], complete=False)
    known: dict[str, Any] = {"asked": {"find": typed, "status": status or ""}, "slug": "shop", "counted": 1000}
    known |= {"names": [name for name, _ in AGES], "statuses": conversations.cells, "more": None}
    views: list[dict[str, Any]] = [
        {"found": Brought(found), "listed": None, "ages": None},
        {"found": None, "listed": Brought((tickets, None)), "ages": None},
        {"found": None, "listed": None, "ages": Brought([StatusAges(status, (1, 0, 2, 3, 4, 1000))])},
        {"found": Brought(None, f"not {typed}"), "listed": None, "ages": None},
    ]
    for about in views:
        assert_harmless(rendered("conversations.html", **known, **about))


@given(st.lists(st.tuples(WORDS, WORDS), max_size=3), st.lists(st.integers(0, 10**9), min_size=7, max_size=7))
@settings(max_examples=examples(30))
def test_acks_are_harmless(stuck: list[tuple[str | None, str | None]], counts: list[int]) -> None:
    """Ids and statuses of tickets, and any counts."""
    part = PeriodPart(AT, AT, tuple(counts[: len(OUTCOMES)]), (tuple(counts), (0,) * len(RANGES)), complete=False)
    failed = FailedPage([Failed(status or "", ticket, AT, AT) for ticket, status in stuck], complete=False)
    page = StuckPage([Stuck(ticket, None, status, 1, AT, AT) for ticket, status in stuck], 1, complete=False)
    known = acks.drawn([part, part])
    assert_harmless(
        rendered(
            "acks.html", slug="shop", period=Brought([part]), stuck=Brought(page), failed=Brought(failed), hours=24,
            periods=acks.PERIODS, ranges=RANGES, **known,
        )
    )  # fmt: skip


PLACES = row(time=st.none(), rank=TEXTS, position=st.none() | st.integers(0, 9))
MATCHES = row(kind=st.sampled_from(("event", "ticket")), tenant=WORDS, tenant_id=TEXTS, id=TEXTS)


@given(TEXTS, st.lists(MATCHES, max_size=3))
@settings(max_examples=examples(30))
def test_a_passport_of_several_things_is_harmless(typed: str, matches: list[Any]) -> None:
    """What was typed, and ids of all kinds that have this name."""
    assert_harmless(
        rendered(
            "passport.html",
            text=typed,
            matches=matches,
            shown=None,
            stops=[],
            unread=["a database is away"],
            number=None,
            by_position={},
            far=False,
            **_SAYING,
        )
    )


@given(TEXTS, WORDS, TEXTS, st.lists(PLACES, max_size=2))
@settings(max_examples=examples(30))
def test_the_passport_of_a_thing_is_harmless(thing_id: str, slug: str | None, tenant: str, told: list[Any]) -> None:
    """An id that is markup, a tenant that has gone, and the places of its fields."""
    rest = {"observed_at": None, "looked_at": None, "last_reconcile": None}
    shown = {
        "kind": "ticket", "id": thing_id, "tenant": slug, "tenant_id": tenant, "held": True, "known": False,
        "doubtful": [thing_id], "fields": [{"field": thing_id, **one} for one in told], "ack": None, "rest": rest,
        "events": [{"position": 1, "id": thing_id, "type": thing_id, "received_at": AT, "origin": tenant}],
        "looked_behind": 5,
    }  # fmt: skip
    assert_harmless(
        rendered(
            "passport.html",
            text="x",
            matches=[shown],
            shown=shown,
            stops=[],
            unread=["a database is away"],
            number=None,
            by_position={},
            far=False,
            **_SAYING,
        )
    )


_SAYING = MappingProxyType(
    {"outcome": lambda one: one["outcome"], "told_by": lambda one: one["rank"], "rest": lambda _one: ["x"]}
)
