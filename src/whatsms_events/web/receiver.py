"""The receiver takes the vendor's webhooks: it answers 2xx once the bytes of a delivery are committed.

It reads a delivery and looks at the form of its signature; the committer judges it and commits it. Until its signature
is verified, nothing of the request becomes a label, a log line or a part of the answer.
"""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

import msgspec
import structlog
from aiohttp import StreamReader, hdrs, web

from whatsms_events import metrics
from whatsms_events.domain.signature import HEADER, REASONS, given
from whatsms_events.domain.verdicts import Delivery
from whatsms_events.errors import OverloadedError, SignatureError, StorageUnavailableError, WhatsmsEventsError
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.room import Room
from whatsms_events.web.answers import SERVER, Prepared
from whatsms_events.web.connection import Unparsable
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.senders import TenantSender
from whatsms_events.web.tally import Tally, delivered
from whatsms_events.web.whole import Tell, Whole

BODY_DEADLINE_S: Final = 10.0
BODY_BYTES_PER_S: Final = 512 * 1024
"""The lowest rate for a body of the largest size: 5 MiB may take ten seconds, a larger limit gives more time."""

LOG_INTERVAL_S: Final = 10.0

_encode: Final = msgspec.json.Encoder().encode

_PATH: Final = re.compile(r"/webhooks/([^/]+)/?")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account with the vendor. `slug` is its part of the URL, `tenant_id` its name in keys; secrets go by name."""

    slug: str
    tenant_id: str
    secrets: Mapping[str, bytes]


class Receiver:
    """The webhooks. `deadline_s` bounds the wait for a commit, `body_deadline_s` the time a body may take to arrive."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        committer: Committer,
        *,
        body_limit_bytes: int,
        in_flight_limit_bytes: int,
        deadline_s: float,
        now: Callable[[], datetime],
        rejects: Rejects | None = None,
        body_deadline_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committer = committer
        self._body_limit_bytes = body_limit_bytes
        self._body_deadline_s = body_deadline_s or max(BODY_DEADLINE_S, body_limit_bytes / BODY_BYTES_PER_S)
        self._rejects = rejects or Rejects({}, 0, now=now)
        self._largest_refused_bytes = 0
        self._now = now
        self._monotonic = monotonic
        self._senders: dict[str, TenantSender] = {}  # of tenants that have gone too: their last deliveries are counted
        self._tally = Tally(self._senders, now)
        self._room = Room(in_flight_limit_bytes, "bytes in flight", shared=False)
        self._rejected = Throttle(LOG_INTERVAL_S, monotonic)
        self._refused_signatures = Counter[str]()
        self.change(tenants, in_flight_limit_bytes=in_flight_limit_bytes, deadline_s=deadline_s)
        metrics.LARGEST_REFUSED.set(0)
        metrics.IN_FLIGHT_BYTES.set_function(lambda: self._room.used)

    def change(self, tenants: Mapping[str, Tenant], *, in_flight_limit_bytes: int, deadline_s: float) -> None:
        """Have these tenants, secrets and limits from the next delivery on; one that has begun is judged as before."""
        self._tenants = tenants
        self._paths = {path: tenant for slug, tenant in tenants.items() for path in _paths(slug)}
        self._whole_paths = {path.encode(): tenant for path, tenant in self._paths.items()}
        self._deadline_s = deadline_s
        self._room.change(in_flight_limit_bytes, shared=len(tenants) > 1)
        for slug in tenants.keys() - self._senders.keys():
            self._senders[slug] = TenantSender(slug)
        for slug, reason in itertools.product(tenants, REASONS):
            delivered(slug, f"signature_{reason}")  # shown as 0 from the start: an alert asks how much it rose

    def count_unparsable(self, found: Unparsable) -> None:
        """Count a POST that could not be parsed, and so reached no route, for the tenant whose path it names.

        Bytes behind a request that are no request are most likely the rest of its body: `leftover`, for that tenant.
        """
        outcome = "leftover" if found.path is None and found.behind is not None else "unparsable"
        path = _PATH.fullmatch(found.path or found.behind or "")
        slug = path[1] if path is not None and path[1] in self._tenants else ""
        suppressed = self._rejected.due((slug, outcome))
        if suppressed is not None:
            log.warning("delivery.unparsable", tenant=slug, outcome=outcome, error=found.error, suppressed=suppressed)
        delivered(slug, outcome).inc()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer any request to the public listener. Raise what becomes a status: 404, 405, or why it is refused."""
        started = self._monotonic()
        tenant = self._paths.get(request.raw_path)  # as nearly everybody writes it
        if tenant is None:
            path = _PATH.fullmatch(request.path)
            if path is None:
                raise web.HTTPNotFound
            tenant = self._tenants.get(path[1])
        if request.method == hdrs.METH_POST:
            return await self._receive(request, tenant, started)
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            raise web.HTTPMethodNotAllowed(request.method, (hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_POST))
        if tenant is None:
            raise web.HTTPNotFound
        return web.Response(headers={hdrs.SERVER: SERVER})  # people and vendors try a URL by GET and HEAD

    async def _receive(self, request: web.BaseRequest, tenant: Tenant | None, started: float) -> web.StreamResponse:
        """Answer a delivery, and count what became of it."""
        slug = "" if tenant is None else tenant.slug
        outcome = "failed"
        try:
            if tenant is None:
                raise web.HTTPNotFound
            if hdrs.EXPECT in request.headers:
                await _continue(request)
            done = await self._deliver(tenant, request)
            outcome = done.kind
            self._note(slug, done)
            return Prepared(*_answer(done))
        except (WhatsmsEventsError, web.HTTPException) as exc:
            outcome = self._note_refusal(slug, exc)
            raise
        finally:
            self._tally.add(slug, outcome, self._monotonic() - started)

    def take(self, whole: Whole, tell: Tell) -> bool:
        """Take a delivery that came whole, and let `tell` answer it once it is committed, or refused.

        Return False where it is for `handle`: at another path, too large, or without room.
        """
        tenant, size = self._whole_paths.get(whole.path), len(whole.body)
        if tenant is None or size > self._body_limit_bytes:
            return False
        started, received_at = self._monotonic(), self._now()
        delivery = Delivery(tenant.slug, tenant.tenant_id, tenant.secrets, whole.digest, whole.body, None, received_at)
        try:
            self._room.take(tenant.tenant_id, size)
        except OverloadedError:
            return False
        waiting = Unanswered(self._finish, (whole, delivery, started, tell))
        try:
            self._committer.take(delivery, waiting, deadline_s=self._deadline_s)
        except WhatsmsEventsError:
            self._room.give_back(tenant.tenant_id, size)
            return False
        return True

    def _finish(self, taken: "Taking", done: Outcome | Exception) -> None:
        """Answer a delivery that was taken, and count what became of it."""
        whole, delivery, started, tell = taken
        self._room.give_back(delivery.tenant, len(delivery.body))
        tell(done if isinstance(done, Exception) else _answer(done))  # first: whatever fails below, it is answered
        outcome, slug = "failed", delivery.slug
        if not isinstance(done, Exception):
            outcome = done.kind
            self._note(slug, done)
        elif isinstance(done, WhatsmsEventsError):
            outcome = self._note_refusal(slug, done)
            if isinstance(done, SignatureError):
                self._rejects.keep(slug, whole, whole.body, done.reason)
        self._tally.add(slug, outcome, self._monotonic() - started)

    async def _deliver(self, tenant: Tenant, request: web.BaseRequest) -> Outcome:
        """Read the delivery and return its outcome. One that cannot have a right signature is refused before that."""
        signatures, encoding = request.headers.getall(HEADER, ()), _content_encoding(request)
        self._check_size(request.content_length or 0, signatures)
        try:
            digest = given(signatures)
            with Hold(self._room, tenant.tenant_id) as hold:
                body = await self._read(request, signatures, hold)
                delivery = Delivery(tenant.slug, tenant.tenant_id, tenant.secrets, digest, body, encoding, self._now())
                return await self._verified(delivery, request)
        except SignatureError:
            if encoding is None:
                raise
            raise web.HTTPUnsupportedMediaType from None

    async def _verified(self, delivery: Delivery, request: web.BaseRequest) -> Outcome:
        """Return the outcome of a delivery; one with a wrong signature is kept for `verify`, where that is wished."""
        try:
            return await self._committer.deliver(delivery, deadline_s=self._deadline_s)
        except SignatureError as exc:
            self._rejects.keep(delivery.slug, request, delivery.body, exc.reason)
            raise

    def _note_refusal(self, slug: str, exc: Exception) -> str:
        """Log and count why a delivery is refused, and return its outcome."""
        outcome = _refusal(exc)
        self._refused_signatures[slug] += isinstance(exc, SignatureError)
        self._log_refusal(slug, outcome)
        return outcome

    def _note(self, slug: str, outcome: Outcome) -> None:
        """Log a parked delivery, and let the tenant's sender know of what was committed."""
        if outcome.kind == "parked":
            log.warning("delivery.parked", tenant=slug, id=str(outcome.id), reason=outcome.reason)
        self._tally.committed(slug, outcome)

    def details(self) -> Mapping[str, object]:
        """Return what each tenant's deliveries say of their sender, for /readyz."""
        return {f"door.{slug}": self._senders[slug].detail for slug in self._tenants}

    def refused_signatures(self, slug: str) -> int:
        """Return how many signatures were refused at a tenant's door so far."""
        return self._refused_signatures[slug]

    def refused_in_all(self) -> int:
        """Return how many signatures were refused at all doors so far."""
        return sum(self._refused_signatures.values())

    async def _read(self, request: web.BaseRequest, headers: Sequence[str], hold: "Hold") -> bytes:
        """Return the body as it was on the wire; never hold more of it than the limits allow."""
        try:
            if request.content_length is not None and request.content.is_eof():
                body = request.content.read_nowait()  # most bodies arrive with their headers
                hold.take(len(body))
                return body
            async with asyncio.timeout(self._body_deadline_s):
                return await self._read_on(request.content, headers, hold)
        except TimeoutError as exc:
            raise web.HTTPRequestTimeout from exc
        except (OSError, web.RequestPayloadError) as exc:  # the client has gone, or its chunks are no chunks
            # aiohttp keeps this error with the request: by its traceback it would keep what came of the body too.
            raise web.HTTPBadRequest from exc.with_traceback(None)

    async def _read_on(self, content: StreamReader, headers: Sequence[str], hold: "Hold") -> bytes:
        # Room is taken as bytes come. If announced bytes counted, a few silent strangers could shut the door.
        body = bytearray()
        try:
            while chunk := await content.readany():
                self._check_size(len(body) + len(chunk), headers)
                hold.take(len(chunk))
                body += chunk
            return bytes(body)
        finally:
            body.clear()  # an error that is being answered may hold this frame, and its room is given back already

    def _check_size(self, size: int, signatures: Sequence[str]) -> None:
        if size > self._body_limit_bytes:
            with suppress(SignatureError):  # a scanner's large announcement must not hide the vendor's largest body
                given(signatures)
                self._largest_refused_bytes = max(self._largest_refused_bytes, size)
                metrics.LARGEST_REFUSED.set(self._largest_refused_bytes)
            raise web.HTTPRequestEntityTooLarge(self._body_limit_bytes, size)

    def _log_refusal(self, slug: str, outcome: str) -> None:
        suppressed = self._rejected.due((slug, outcome))
        if suppressed is not None:
            log.warning("delivery.rejected", tenant=slug, outcome=outcome, suppressed=suppressed)


class Hold:
    """The part of the room that one request takes; it is given back at the end of the block, however that ends."""

    def __init__(self, room: Room, tenant: str) -> None:
        self._room = room
        self._tenant = tenant
        self._taken = 0

    def take(self, size: int) -> None:
        """Take room for bytes that came in; raise OverloadedError where there is none."""
        self._room.take(self._tenant, size)
        self._taken += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._tenant, self._taken)


Taking = tuple[Whole, Delivery, float, Tell]
"""A delivery that was taken: what came, what is judged, when it came, and whom to tell of its outcome."""


class Unanswered:
    """A delivery that was taken, in the place of the future by which a handler waits: its outcome is told at once."""

    __slots__ = ("_finish", "_taking")

    def __init__(self, finish: Callable[[Taking, Outcome | Exception], None], taking: Taking) -> None:
        self._finish = finish
        self._taking: Taking | None = taking

    def done(self) -> bool:
        """Tell whether it has its outcome."""
        return self._taking is None

    def set_result(self, result: Outcome | Exception) -> None:
        """Take the outcome. An error is logged: it must not end the committer."""
        taking, self._taking = self._taking, None
        if taking is None:
            return
        try:
            self._finish(taking, result)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others of the commit get their answers
            # No traceback: it could hold what a person wrote.
            log.error("request.failed", error=type(exc).__name__, place=__name__, path=None)  # noqa: TRY400


class Throttle:
    """One line for each kind and interval, so that strangers cannot fill the log. Kinds are a closed set."""

    def __init__(self, interval_s: float, monotonic: Callable[[], float]) -> None:
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def due(self, kind: tuple[str, str]) -> int | None:
        """Return None where the line must wait, else how many waited since the last one."""
        now = self._monotonic()
        last, waiting = self._seen.get(kind, (-self._interval_s, 0))
        if now - last < self._interval_s:
            self._seen[kind] = (last, waiting + 1)
            return None
        self._seen[kind] = (now, 0)
        return waiting


def _paths(slug: str) -> tuple[str, str]:
    """Return a tenant's path, with and without a slash at its end: a redirect would lose the POST."""
    return f"/webhooks/{slug}", f"/webhooks/{slug}/"


def _content_encoding(request: web.BaseRequest) -> str | None:
    """Return how the body is encoded, None where it is not."""
    if hdrs.CONTENT_ENCODING not in request.headers:
        return None
    named = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).strip().lower()
    return None if named in {"", "identity"} else named


def _answer(outcome: Outcome) -> tuple[int, str]:
    """Return the status and the JSON by which a delivery is answered."""
    if outcome.kind == "parked":
        return 202, _text({"id": outcome.id, "parked": outcome.reason})
    return 200, _text({"id": outcome.id, "position": outcome.position, "duplicate": outcome.kind == "duplicate"})


def _text(answer: Mapping[str, object]) -> str:
    return _encode(answer).decode("utf-8")  # in half the time that a UUID takes to write itself


REFUSALS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (OverloadedError, "overloaded"),
    (StorageUnavailableError, "unavailable"),
    (web.HTTPNotFound, "unknown_slug"),
    (web.HTTPRequestEntityTooLarge, "too_large"),
    (web.HTTPUnsupportedMediaType, "encoding"),
    (web.HTTPRequestTimeout, "stalled"),
    (web.HTTPBadRequest, "broken"),
)


def _refusal(exc: Exception) -> str:
    """Return the outcome that is counted: a closed set."""
    if isinstance(exc, SignatureError):
        return f"signature_{exc.reason}"
    return next((name for kind, name in REFUSALS if isinstance(exc, kind)), "failed")


async def _continue(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, which some clients send before a large body; no other expectation is known."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return  # RFC 9110, 10.1.1: an expectation may be ignored
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
