"""The receiver takes the vendor's webhooks: it answers 2xx once the bytes of a delivery are committed.

A delivery is read, verified, normalised or parked, appended and answered. Until its signature is verified, nothing of
the request becomes a label, a log line or a part of the answer.
"""

import asyncio
import hashlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final, Self

import structlog
from aiohttp import StreamReader, hdrs, web

from whatsms_events import metrics
from whatsms_events.domain.normalize import identify, normalize
from whatsms_events.domain.signature import HEADER, REASONS, given, verify
from whatsms_events.errors import (
    InvalidEventError,
    OverloadedError,
    SignatureError,
    StorageUnavailableError,
    WhatsmsEventsError,
)
from whatsms_events.storage.log.appends import Append, Park
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.web.connection import Unparsable
from whatsms_events.web.senders import TenantSender

BODY_DEADLINE_S: Final = 10.0
BODY_BYTES_PER_S: Final = 512 * 1024
"""The lowest rate for a body of the largest size: 5 MiB may take ten seconds, a larger limit gives more time."""

LOG_INTERVAL_S: Final = 10.0

_PATH: Final = re.compile(r"/webhooks/([^/]+)/?")

log = structlog.get_logger()

# `labels` takes longer than all the counting. The sets are closed, so the caches are small.
_delivered = cache(metrics.DELIVERIES.labels)
_signed = cache(metrics.SIGNED_BY.labels)


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
        body_deadline_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants = tenants
        self._committer = committer
        self._body_limit_bytes = body_limit_bytes
        self._deadline_s = deadline_s
        self._body_deadline_s = body_deadline_s or max(BODY_DEADLINE_S, body_limit_bytes / BODY_BYTES_PER_S)
        self._largest_refused_bytes = 0
        self._now = now
        self._monotonic = monotonic
        self._senders = {tenant.slug: TenantSender(tenant.slug) for tenant in tenants.values()}
        self._room = Room(in_flight_limit_bytes)
        self._rejected = Throttle(LOG_INTERVAL_S, monotonic)
        self._refused_signatures = Counter[str]()
        for slug, reason in itertools.product(self._senders, REASONS):
            _delivered(slug, f"signature_{reason}")  # shown as 0 from the start: an alert asks how much it rose
        metrics.LARGEST_REFUSED.set(0)
        metrics.IN_FLIGHT_BYTES.set_function(lambda: self._room.used_bytes)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one path, with and without a slash at its end: a redirect would lose the POST."""
        return [
            route
            for path in ("/webhooks/{slug}", "/webhooks/{slug}/")  # also `_PATH`
            for route in (web.post(path, self._receive, expect_handler=_continue), web.get(path, self._probe))
        ]

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
        _delivered(slug, outcome).inc()

    async def _probe(self, request: web.Request) -> web.Response:
        """Answer GET and HEAD, by which people and vendors try a URL."""
        if request.match_info["slug"] not in self._tenants:
            raise web.HTTPNotFound
        return web.Response()

    async def _receive(self, request: web.Request) -> web.Response:
        """Answer a delivery, and count what became of it."""
        started = self._monotonic()
        tenant = self._tenants.get(request.match_info["slug"])
        slug = "" if tenant is None else tenant.slug
        outcome = "failed"
        try:
            if tenant is None:
                raise web.HTTPNotFound
            with Hold(self._room) as hold:
                done = await self._deliver(tenant, request, hold)
            outcome = done.kind
            return _answer(done)
        except (WhatsmsEventsError, web.HTTPException) as exc:
            outcome = _refusal(exc)
            self._refused_signatures[slug] += isinstance(exc, SignatureError)
            self._log_refusal(slug, outcome)
            raise
        finally:
            _delivered(slug, outcome).inc()
            metrics.DELIVERY_SECONDS.observe(self._monotonic() - started)

    async def _deliver(self, tenant: Tenant, request: web.Request, hold: "Hold") -> Outcome:
        headers, encoding = request.headers.getall(HEADER, []), _content_encoding(request)
        self._check_size(request.content_length or 0, headers)
        if encoding is None:
            given(headers)  # a request without a possible signature is refused before its body is read
        body = await self._read(request, headers, hold)
        try:
            secret = verify(body, headers, tenant.secrets)
        except SignatureError:
            if encoding is None:
                raise
            raise web.HTTPUnsupportedMediaType from None
        _signed(tenant.slug, secret).inc()
        metrics.DELIVERY_BYTES.observe(len(body))
        item = _item(body, encoding, tenant.tenant_id, self._now())
        if isinstance(item, Append) and item.event.occurred_at is not None:
            delay = item.event.received_at - item.event.occurred_at
            metrics.DELIVERY_DELAY.observe(max(0.0, delay.total_seconds()))
        outcome = await self._committer.submit(item, deadline_s=self._deadline_s)
        self._note(tenant.slug, item, outcome)
        return outcome

    def _note(self, slug: str, item: Append | Park, outcome: Outcome) -> None:
        """Log a parked delivery, and tell the tenant's sender of each delivery that is not a redelivery."""
        if outcome.kind == "parked":
            log.warning("delivery.parked", tenant=slug, id=str(outcome.id), reason=outcome.reason)
            if not outcome.redelivered:
                self._senders[slug].parked(outcome.reason or "", self._now())
        elif outcome.kind == "accepted" and isinstance(item, Append):
            self._senders[slug].accepted(item.event)

    def details(self) -> Mapping[str, object]:
        """Return what each tenant's deliveries say of their sender, for /readyz."""
        return {f"door.{slug}": sender.detail for slug, sender in self._senders.items()}

    def refused_signatures(self, slug: str) -> int:
        """Return how many signatures were refused at a tenant's door so far."""
        return self._refused_signatures[slug]

    async def _read(self, request: web.Request, headers: Sequence[str], hold: "Hold") -> bytes:
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
            raise web.HTTPBadRequest from exc

    async def _read_on(self, content: StreamReader, headers: Sequence[str], hold: "Hold") -> bytes:
        # Room is taken as bytes come. If announced bytes counted, a few silent strangers could shut the door.
        body = bytearray()
        while chunk := await content.readany():
            self._check_size(len(body) + len(chunk), headers)
            hold.take(len(chunk))
            body += chunk
        return bytes(body)

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


class Room:
    """The bytes of bodies that may be in memory at a time."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Hold:
    """The part of the room that one request takes; it is given back at the end of the block, however that ends."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def take(self, size: int) -> None:
        """Take room for bytes that came in; raise OverloadedError where there is none."""
        if self._room.used_bytes + size > self._room.limit_bytes:
            raise OverloadedError("too many bytes in flight")
        self._add(size)

    def _add(self, size: int) -> None:
        self._taken += size
        self._room.used_bytes += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._add(-self._taken)


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


def _item(body: bytes, encoding: str | None, tenant: str, received_at: datetime) -> Append | Park:
    """Return the body as an event, or as what is parked and why. A compressed body is parked as it came."""
    sha256 = hashlib.sha256(body).digest()
    try:
        if encoding is not None:
            raise InvalidEventError("encoding", "Content-Encoding")
        return Append(normalize(body, tenant=tenant, received_at=received_at), body, sha256)
    except InvalidEventError as exc:
        parked_id = identify(body, tenant=tenant)
        return Park(parked_id, tenant, exc.reason, exc.detail, received_at, body, sha256, encoding)


def _content_encoding(request: web.Request) -> str | None:
    """Return how the body is encoded, None where it is not."""
    if hdrs.CONTENT_ENCODING not in request.headers:
        return None
    named = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, [])).strip().lower()
    return None if named in {"", "identity"} else named


def _answer(outcome: Outcome) -> web.Response:
    if outcome.kind == "parked":
        return _json(202, f'{{"id":"{outcome.id}","parked":"{outcome.reason}"}}')
    duplicate = "true" if outcome.kind == "duplicate" else "false"
    return _json(200, f'{{"id":"{outcome.id}","position":{outcome.position},"duplicate":{duplicate}}}')


def _json(status: int, text: str) -> web.Response:
    return web.Response(status=status, body=text.encode("ascii"), content_type="application/json")


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


async def _continue(request: web.Request) -> None:
    """Answer `Expect: 100-continue`, which some clients send before a large body; no other expectation is known."""
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return  # RFC 9110, 10.1.1: an expectation may be ignored
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
