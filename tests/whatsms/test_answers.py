"""Replies become answers or errors, whatever comes back."""

import codecs
import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from servers.virtual_time import virtual
from whatsms.vendor import CLOCK, KEY, TICKET, Say, html, in_turn, say, serving, talking
from whatsms_events.domain.fields import read_ticket
from whatsms_events.errors import (
    TransientError,
    UpstreamError,
    UpstreamForbiddenError,
    UpstreamGoneError,
    UpstreamInvalidError,
    UpstreamLimitedError,
    UpstreamNotFoundError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
    UpstreamUncertainError,
)
from whatsms_events.whatsms.answers import ANSWER_LIMIT_BYTES, Answer, Call, Reply, as_of, judge, retry_after
from whatsms_events.whatsms.pages import Place
from whatsms_events.whatsms.resources import single

GET = Call("GET", "/tickets/{id}", single("ticket", read_ticket), ("t1",))
MARK = codecs.BOM_UTF8
POST = Call("POST", "/tickets", single("ticket", read_ticket))


def reply(body: bytes = b"", status: int = 200, **headers: str) -> Reply:
    """Return what came back."""
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, body, CLOCK, 1.5)


def asked(url: str, status: int, **headers: str) -> Reply:
    """Return what came back for a URL."""
    return replace(reply(b"", status, **headers), url=url)


def error_of(outcome: object) -> UpstreamError:
    """Return the error that a reply became."""
    assert isinstance(outcome, UpstreamError)
    return outcome


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (300, UpstreamRefusedError),
        (302, UpstreamRefusedError),
        (400, UpstreamInvalidError),
        (401, UpstreamUnauthorizedError),
        (403, UpstreamForbiddenError),
        (404, UpstreamNotFoundError),
        (405, UpstreamRefusedError),
        (408, UpstreamUnavailableError),
        (409, UpstreamRefusedError),
        (410, UpstreamGoneError),
        (429, UpstreamLimitedError),
        (451, UpstreamRefusedError),
        (500, UpstreamUnavailableError),
        (502, UpstreamUnavailableError),
        (599, UpstreamUnavailableError),
    ],
)
def test_each_status_has_one_class(status: int, kind: type[UpstreamError]) -> None:
    """The class says what happens next; what may work later is a TransientError, what is refused is not."""
    body = '{"error": "Limite de frequência"}'.encode()
    error = error_of(judge(GET, reply(body, status), secret=KEY))
    assert type(error) is kind
    assert (error.status, error.text, str(error)) == (status, "Limite de frequência", f"GET /tickets/{{id}}: {status}")
    assert isinstance(error, TransientError) == (not isinstance(error, UpstreamRefusedError))


@pytest.mark.parametrize("status", [200, 201, 204, 408, 500, 502, 503])
def test_a_post_without_a_usable_answer_is_uncertain(status: int) -> None:
    """It may have happened: no loop tries such an error again."""
    error = error_of(judge(POST, reply(b"<html>", status), secret=KEY))
    assert type(error) is UpstreamUncertainError
    assert not isinstance(error, TransientError)
    assert error.status == status


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<html><body>ok</body></html>", "not_json"),
        (b'{"ticket": {"id": "t1"', "not_json"),
        (b'{"ticket": {"id": NaN}}', "not_json"),
        (b"\xff\xfe{}", "not_utf8"),
        (b"[]", "not_object"),
        (b"null", "not_object"),
        (b"[" * 1000, "too_deep"),
        (b'{"ticket": null}', "no_ticket"),
        (b'{"ticket": []}', "no_ticket"),
        (b'{"ticket": {"status": "open"}}', "no_ticket"),
        (b'{"ticket": {"id": ""}}', "no_ticket"),
        (b'{"error": "manuten\\u00e7\\u00e3o"}', "no_ticket"),
        (b"x" * (ANSWER_LIMIT_BYTES + 1), "too_large"),
    ],
)
def test_a_good_status_with_anything_else_is_no_answer(body: bytes, reason: str) -> None:
    """Whatever is not the JSON asked for is UpstreamUnavailableError, which says why in a word."""
    error = error_of(judge(GET, reply(body), secret=KEY))
    assert type(error) is UpstreamUnavailableError
    assert str(error) == f"GET /tickets/{{id}}: 200 with no usable answer ({reason})"


@pytest.mark.parametrize("body", [b'{"ticket": {"id": "t1"}}', b'{"id": "t1"}', b'{"ticketId": "t1"}'])
def test_an_answer_is_read_with_any_content_type_and_without_its_wrapping(body: bytes) -> None:
    """The bytes decide what is JSON; a resource may stand alone."""
    outcome = judge(GET, reply(body, Content_Type="text/html"), secret=KEY)
    assert isinstance(outcome, Answer)
    assert outcome.value.id == "t1"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": "ERR_NO_TICKET_FOUND"}', "ERR_NO_TICKET_FOUND"),
        (b'{"message": "Not Found", "statusCode": 404}', "Not Found"),
        (b'{"error": {"code": 1}, "message": "m"}', "m"),
        (b'{"error": "a\\u0000b\\u001b[31m\\n\\tc \\ud800"}', "a\ufffdb [31m c \ufffd"),
        (b"<html>\n <h1>404</h1>", "<html> <h1>404</h1>"),
        (b"\xff", "\ufffd"),
        (b"", ""),
        (b'{"error": "' + b"x" * 1000 + b'"}', "x" * 300),
        (f'{{"error": "key {KEY} unknown"}}'.encode(), "key [key] unknown"),
        (b"y" * 295 + KEY.encode(), "y" * 295 + "[key]"),
    ],
)
def test_the_vendors_text_is_kept_printable_and_short(body: bytes, text: str) -> None:
    """`text` is one line of at most 300 characters that never holds the key."""
    assert error_of(judge(GET, reply(body, 404), secret=KEY)).text == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 1.0),
        ("-5", 1.0),
        ("0.2", 1.0),
        ("2.5", 2.5),
        ("100000000", 120.0),
        ("9" * 5000, 120.0),
        ("inf", 120.0),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("Thu, 15 Jan 2026 10:30:40 GMT", 40.0),
        ("Thursday, 15-Jan-26 10:30:40 GMT", 40.0),
        ("Thu Jan 15 10:30:40 2026", 40.0),
        ("Thu, 15 Jan 2026 09:00:00 GMT", 1.0),
        ("Fri, 15 Jan 2027 10:30:00 GMT", 120.0),
        ("Thu, 99 Jan 2026 10:30:00 GMT", None),
        ("Thu, 15 Jan 99999 10:30:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_every_form_and_clamped(value: str, seconds: float | None) -> None:
    """Seconds or a date, near or far, before or behind: between 1 and 120 s, or unsaid."""
    assert retry_after(reply(status=429, Retry_After=value)) == seconds


def test_a_date_to_retry_after_is_the_vendors_clock() -> None:
    """Where the vendor shows its own time, that is what its date is compared with."""
    later, then = "Tue, 01 Jan 2030 00:00:30 GMT", "Tue, 01 Jan 2030 00:00:00 GMT"
    assert retry_after(reply(status=429, Retry_After=later, Date=then)) == 30.0
    assert retry_after(reply(status=429)) is None


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Thu, 15 Jan 2026 12:00:00 GMT", datetime(2026, 1, 15, 11, 59, 58, 500_000, tzinfo=UTC)),
        ("Thu, 15 Jan 2026 12:00:00 -0000", datetime(2026, 1, 15, 11, 59, 58, 500_000, tzinfo=UTC)),
        ("Thu, 15 Jan 2026 14:00:00 +0200", datetime(2026, 1, 15, 11, 59, 58, 500_000, tzinfo=UTC)),
        ("", CLOCK),
        ("never", CLOCK),
        ("Fri, 31 Dec 9999 23:59:59 -2300", CLOCK),
    ],
)
def test_as_of_is_never_later_than_what_is_shown(date: str, expected: datetime) -> None:
    """The vendor's `Date` less the duration; our clock at the start where that is none, or outside of the calendar."""
    assert abs(as_of(reply(Date=date)) - expected) < timedelta(milliseconds=1)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@virtual
async def test_a_huge_answer_is_not_read_to_its_end(packed: bool) -> None:
    """Of a body without an end, packed or not, no more is read and unpacked than the limit."""
    body = b"x" * (4 * ANSWER_LIMIT_BYTES)
    huge = Say(gzip.compress(body, 1), 200, (("Content-Encoding", "gzip"),)) if packed else Say(body)
    async with talking(in_turn(huge, say(TICKET)), attempts=1) as (_vendor, client):
        with pytest.raises(UpstreamUnavailableError, match="too_large"):
            await client.tickets.get("t1")
        assert (await client.tickets.get("t1")).id == "t1"


@virtual
async def test_a_huge_error_is_not_read_to_its_end() -> None:
    """An error is an error, however long its page is."""
    async with talking(in_turn(html(404, "<p>" * 5_000_000), say(TICKET))) as (_vendor, client):
        with pytest.raises(UpstreamNotFoundError) as caught:
            await client.tickets.get("t1")
        assert len(caught.value.text) == 300
        assert (await client.tickets.get("t1")).id == "t1"


@pytest.mark.parametrize("answer", [{}, {"tickets": {}}, {"data": []}, {"error": "x"}, {"tickets": None, "error": "x"}])
@virtual
async def test_a_list_that_is_none_is_no_empty_list(answer: Any) -> None:
    """An answer without the list asked for is UpstreamUnavailableError: nothing may be taken for gone because of it."""
    async with talking(say(answer), attempts=2) as (vendor, client):
        with pytest.raises(UpstreamUnavailableError, match="no_tickets"):
            await client.tickets.page(Place())
    assert len(vendor.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Say(status=204),
        say({"tickets": None}),
        say({"tickets": None, "count": 0, "hasMore": False, "error": None}),
        say({"tickets": []}),
    ],
)
@virtual
async def test_an_empty_list_has_many_forms(answer: Say) -> None:
    """204, null and an empty list are the same, and the end."""
    async with talking(answer) as (vendor, client):
        page = await client.tickets.page(Place())
        assert (page.items, page.next, page.unusable) == ([], None, 0)
        assert await client.agents.list() == [] if answer.status == 204 else True
    assert len(vendor.seen) == (2 if answer.status == 204 else 1)


@virtual
async def test_204_for_one_by_id_is_no_answer() -> None:
    """Nothing was shown of it, and nobody said that it is not there."""
    async with talking(Say(status=204), attempts=2) as (vendor, client):
        with pytest.raises(UpstreamUnavailableError, match="204 with no usable answer"):
            await client.tickets.get("t1")
    assert len(vendor.seen) == 2


@pytest.mark.parametrize("before", [MARK, MARK * 3, b"\n" + MARK + b" \r\n" + MARK, b"\n\n"])
def test_byte_order_marks_before_an_answer_are_skipped(before: bytes) -> None:
    """One from the server, more from each of its source files, blanks between: what follows is the answer."""
    outcome = judge(GET, reply(before + b'{"ticket": {"id": "t1"}}'), secret=KEY)
    assert isinstance(outcome, Answer)
    assert outcome.value.id == "t1"
    assert error_of(judge(GET, reply(before + b'{"error": "x"}', 404), secret=KEY)).text == "x"


@pytest.mark.parametrize("body", [MARK, b'{"ticket": ' + MARK + b'{"id": "t1"}}', b"\xef\xbb{}", b"\xfe\xff\x00{\x00}"])
def test_byte_order_marks_elsewhere_are_no_answer(body: bytes) -> None:
    """A mark alone, within the JSON, cut, or of another encoding."""
    assert type(error_of(judge(GET, reply(body), secret=KEY))) is UpstreamUnavailableError


@pytest.mark.parametrize(
    ("target", "into"),
    [
        ("/api/v2/tickets/t2", "t2"),
        ("t2", "t2"),
        ("./t2?from=t1#top", "t2"),
        ("../tickets/t2/", "t2"),
        ("https://api.example/api/v2/tickets/t%20%C3%A9", "t é"),
        ("https://API.example:443/v2/tickets/t2", "t2"),
        ("//api.example/api/v2/tickets/t2", "t2"),
        ("https://elsewhere.example/api/v2/tickets/t2", None),
        ("//elsewhere.example/api/v2/tickets/t2", None),
        ("http://api.example/api/v2/tickets/t2", None),
        ("https://api.example:8443/api/v2/tickets/t2", None),
        ("https://api.example.elsewhere.example/api/v2/tickets/t2", None),
        ("/api/v2/tickets/t1", None),
        ("/api/v2/tickets/T1/", None),
        ("/api/v2/tickets", None),
        ("/api/v2/tickets/", None),
        ("/api/v2/contacts/t2", None),
        ("/login?next=/tickets/t2", None),
        ("", None),
        ("https://[", None),
        ("mailto:tickets/t2", None),
        ("/api/v2/tickets/%00", None),
        ("/api/v2/tickets/t%0A2", None),
        ("/api/v2/tickets/\udcff\udcfe", None),
        ("/api/v2/tickets/" + "2" * 201, None),
    ],
)
def test_a_redirect_or_link_to_another_one_of_its_kind_names_it(target: str, into: str | None) -> None:
    """Another id of the same kind at the same origin, and nothing else: not the same id, a list, a login, a host."""
    url = "https://api.example/api/v2/tickets/t1"
    for status in (301, 302, 303, 307, 308):
        error = error_of(judge(GET, asked(url, status, Location=target), secret=KEY))
        assert type(error) is (UpstreamRefusedError if into is None else UpstreamGoneError)
        assert getattr(error, "merged_into", None) == into
    links = f'<https://docs.example/gone>; rel="help", <{target}>; rel="canonical"'
    error = error_of(judge(GET, asked(url, 410, Link=links), secret=KEY))
    assert isinstance(error, UpstreamGoneError)
    assert error.merged_into == into


def test_only_one_that_is_asked_for_by_id_can_have_moved() -> None:
    """A list, its page, a write, or a status that is no redirect of one: refused as before."""
    there, kind = "/api/v2/tickets/t2", UpstreamRefusedError
    url = "https://api.example/api/v2/tickets/t1"
    put = Call("PUT", "/tickets/{id}", single("ticket", read_ticket), ("t1",))
    messages = Call("GET", "/tickets/{id}/messages", single("ticket", read_ticket), ("t1",))
    for call, status in ((put, 307), (POST, 302), (messages, 301), (GET, 300), (GET, 304)):
        assert type(error_of(judge(call, asked(url, status, Location=there), secret=KEY))) is kind


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@virtual
async def test_no_redirect_is_followed(status: int) -> None:
    """Neither to another host, which must not see the key, nor in a circle at the same one: one request, no more."""
    async with serving(say(TICKET)) as elsewhere, talking(say({}, status)) as (vendor, client):
        vendor.answers = lambda _seen: say({}, status, Location=f"{elsewhere.url}/tickets/t2")
        with pytest.raises(UpstreamRefusedError):
            await client.tickets.get("t1")
        vendor.answers = lambda seen: say({}, status, Location="t2" if seen.path.endswith("t1") else "t1")
        with pytest.raises(UpstreamGoneError) as caught:
            await client.tickets.get("t1")
    assert caught.value.merged_into == "t2"
    assert (len(vendor.seen), elsewhere.seen) == (2, [])


@virtual
async def test_a_busy_server_says_how_long_to_stay_away() -> None:
    """503 with Retry-After is waited for by the call that met it."""
    async with talking(in_turn(say({}, 503, Retry_After="20"), say(TICKET))) as (vendor, client):
        await client.tickets.get("t1")
    assert 20 <= vendor.times[1] - vendor.times[0] <= 22
