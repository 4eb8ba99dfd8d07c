"""Where requests begin and end in a stream of bytes, however it was cut into segments."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.web.framing import HEAD_LIMIT_BYTES, PIPELINE_LIMIT, Framing, path_of

HEAD = b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\n"
WITH_LENGTH = HEAD + b"content-LENGTH:  5\r\n\r\nhello"
WITHOUT_BODY = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123\r\n\r\n89\r\n0\r\nX-Trailer: 1\r\n\r\n"
STREAM = (WITH_LENGTH, WITHOUT_BODY, CHUNKED, WITH_LENGTH)


def followed(segments: Sequence[bytes]) -> tuple[Framing, list[bytes]]:
    """Feed segments, and return what follows them and the pieces they were cut into."""
    framing = Framing()
    return framing, [piece for segment in segments for piece in framing.feed(segment)]


def segments_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut bytes at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(st.integers(0, 1 << 16), max_size=12))
def test_segments_change_nothing(cuts: list[int]) -> None:
    """However requests are cut into segments, each is seen once, no byte is lost, and the end is the end."""
    framing, pieces = followed(segments_of(b"".join(STREAM), cuts))
    assert b"".join(pieces) == b"".join(STREAM)
    assert framing.place == "between"
    assert [path_of(line) for line in framing.lines] == ["/webhooks/acme", "/", "/webhooks/acme", "/webhooks/acme"]


@given(st.data())
def test_every_beginning_of_a_request_is_unfinished(data: st.DataObject) -> None:
    """A stream that stops anywhere within a request is known to be unfinished, and one that stops behind it is not."""
    request = data.draw(st.sampled_from(STREAM))
    end = data.draw(st.integers(1, len(request)))
    framing, _ = followed([WITH_LENGTH, request[:end]])
    assert (framing.place == "between") == (end == len(request))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_no_bytes_are_an_exception(noise: bytes, cuts: list[int]) -> None:
    """Whatever comes, nothing is raised and every byte is passed on."""
    for start in (b"", HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", HEAD + b"Content-Length: 7\r\n\r\n"):
        _, pieces = followed(segments_of(start + noise, cuts))
        assert b"".join(pieces) == start + noise


def test_one_whole_request_is_parsed_in_one_piece() -> None:
    """Nearly every delivery comes whole and alone: nothing behind it can be lost, so it is not cut."""
    framing, pieces = followed([WITH_LENGTH, WITH_LENGTH])
    assert pieces == [WITH_LENGTH, WITH_LENGTH]
    assert [path_of(line) for line in framing.lines] == ["/webhooks/acme", "/webhooks/acme"]


@given(st.integers(0, 30), st.binary(max_size=30), st.sampled_from([b"", b"\r\n", b"Transfer-Encoding: chunked\r\n"]))
def test_a_request_in_one_piece_is_followed_as_one_in_many(length: int, body: bytes, more: bytes) -> None:
    """Where a request ends does not depend on how many segments it came in."""
    data = HEAD + more + b"Content-Length: %d\r\n\r\n" % length + body
    whole, _ = followed([data])
    cut, _ = followed([data[at : at + 1] for at in range(len(data))])
    assert (whole.place, list(whole.lines)) == (cut.place, list(cut.lines))


def test_head_and_body_are_parsed_by_themselves() -> None:
    """A segment is cut behind each head and each body, so that bytes that are refused take no request with them."""
    _, pieces = followed([WITH_LENGTH + b"too much" + WITHOUT_BODY])
    assert pieces == [WITH_LENGTH[:-5], b"hello", b"too much" + WITHOUT_BODY]


@pytest.mark.parametrize(
    "bad", [b"what?\r\n", b"\r\n", b"5 \r\n", b"5\r\nhelloX", b"5\r\nhello\n", b"5\n", b"-1\r\n", b"q"]
)
def test_chunks_that_are_none_are_seen_at_once(bad: bytes) -> None:
    """A size that is no number and data without their line end are broken, also before the line has ended."""
    framing, _ = followed([CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4], bad])
    assert framing.place == "broken"


def test_newlines_between_requests_are_nothing() -> None:
    """A newline that a sender adds behind a body begins no request (RFC 9112, 2.2)."""
    framing, _ = followed([WITH_LENGTH, b"\r\n", b"\n", WITHOUT_BODY])
    assert framing.place == "between"
    assert [path_of(line) for line in framing.lines] == ["/webhooks/acme", "/"]


def test_memory_is_bounded() -> None:
    """A head without end, a size line without end and a pipeline without end are not kept."""
    endless, _ = followed([HEAD, *[b"X-A: " + b"a" * 8000 + b"\r\n"] * (HEAD_LIMIT_BYTES // 8000 + 1)])
    assert endless.place == "lost"
    size, _ = followed([CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4], b"5;" + b"a" * 10_000])
    assert size.place == "broken"
    many, pieces = followed([WITHOUT_BODY * 5000])
    assert many.place == "lost"
    assert len(many.lines) <= PIPELINE_LIMIT + 1
    assert b"".join(pieces) == WITHOUT_BODY * 5000


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"POST /webhooks/acme HTTP/1.1", "/webhooks/acme"),
        (b"POST /webhooks/acme?a=b HTTP/1.1", "/webhooks/acme"),
        (b"POST https://hooks.example/webhooks/acme HTTP/1.1", "/webhooks/acme"),
        (b"POST /webhooks/%61cme/ HTTP/9", "/webhooks/acme/"),
        (b"POST /webhooks/\xff HTTP/1.1", "/webhooks/\ufffd"),
        (b"PRI * HTTP/2.0", None),
        (b"\x16\x03\x01\x02\x00\x01", None),
        (b'\xc3\xa7\xc3\xa3o: j\xc3\xa1!"}}POST /webhooks/acme HTTP/1.1', None),
        (b"", None),
    ],
)
def test_path_is_read_from_a_request_line_only(line: bytes, path: str | None) -> None:
    """A path is read where a request line is, and nowhere else."""
    assert path_of(line) == path
