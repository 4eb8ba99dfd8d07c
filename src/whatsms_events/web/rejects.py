"""The last deliveries of each tenant with a wrong signature, for `whatsms-events verify`: kept where a setting says so.

They are in memory alone, few, of bounded size, and gone when their days are over or after a restart: nobody has proved
who sent them, and they may hold what a person wrote. What names somebody who was forgotten since goes within a minute.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from aiohttp import hdrs, web

from whatsms_events.domain.before import parked_before
from whatsms_events.domain.forms import inflated
from whatsms_events.domain.marks import Suppressions
from whatsms_events.domain.named import named_in_bytes
from whatsms_events.web.access import require
from whatsms_events.web.hiding import showed
from whatsms_events.web.questions import json_answer, not_found, parameters
from whatsms_events.web.whole import Whole

KEPT_FOR: Final = timedelta(days=1)
"""Where a tenant has no time of its own."""

HEAD_LIMIT_BYTES: Final = 16 * 1024
BODY_LIMIT_BYTES: Final = 256 * 1024
"""A larger body is not kept: cut, it would explain nothing. Documented bodies are far smaller."""

LATEST_S: Final = 60.0
"""A timer for longer is set again: somebody may be forgotten, or a clock set, meanwhile."""

SECRET_HEADERS: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
"""What a proxy in front may add, and what no signature depends on."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A delivery as it came: its request line, its headers and its body, in the form of HTTP/1.1."""

    number: int
    received_at: datetime
    reason: str
    request: bytes

    def names_forgotten(self, tenant: str, suppressions: Suppressions) -> bool:
        """Tell whether it names somebody who was forgotten, and is from before that."""
        head, _, body = self.request.partition(b"\r\n\r\n")
        headers = (line.partition(b":") for line in head.split(b"\r\n"))
        encodings = [value.strip() for name, _, value in headers if name.lower() == b"content-encoding"]
        encoding = b",".join(encodings).decode("latin-1") or None
        plain = inflated(body, encoding) or b""
        at = named_in_bytes(plain, suppressions.of(tenant))
        return at is not None and parked_before(self.received_at, plain, at)


class Rejects:
    """The rejects of all tenants, at most `limit` of each; 0 keeps none.

    `tenants` maps each slug to its tenant id, `kept_for` says how long, by slug; `suppressions` gives the marks of who
    was forgotten.
    """

    def __init__(
        self,
        tenants: Mapping[str, str],
        limit: int,
        *,
        now: Callable[[], datetime],
        kept_for: Mapping[str, timedelta] = MappingProxyType({}),
        suppressions: Callable[[], Suppressions] = Suppressions,
    ) -> None:
        self._kept_for = kept_for
        self._kept: dict[str, deque[Reject]] = {}
        self._suppressions = suppressions
        self._looked_for: Suppressions | None = None
        self.change(tenants, limit)
        self._count = 0
        self._now = now
        self._timer: asyncio.TimerHandle | None = None

    def change(self, tenants: Mapping[str, str], limit: int) -> None:
        """Keep another number from now on, of these tenants."""
        self._limit, self._tenants = limit, tenants
        self._kept = {slug: deque(self._kept.get(slug, ()), maxlen=limit) for slug in tenants}

    def keep(self, slug: str, request: web.BaseRequest | Whole, body: bytes, reason: str) -> None:
        """Keep a delivery of a tenant, in the place of the oldest one where there are as many as may be."""
        if slug not in self._kept or not self._limit or len(body) > BODY_LIMIT_BYTES:
            return
        head = [f"{request.method} {request.raw_path} HTTP/1.1".encode("utf-8", "surrogateescape")]
        head += [name + b": " + value for name, value in _shown(request.raw_headers)]
        whole = b"\r\n".join([*head, b"", body])
        if len(whole) - len(body) > HEAD_LIMIT_BYTES:
            return
        self._count += 1
        one, suppressions = Reject(self._count, self._now(), reason, whole), self._suppressions()
        if not suppressions or not one.names_forgotten(self._tenants[slug], suppressions):
            self._kept[slug].append(one)
            self._forget_later()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the list of a tenant's rejects, and one of them as it came."""
        return [
            web.get("/api/v1/{slug}/rejects", self._list),
            web.get("/api/v1/{slug}/rejects/{number:[0-9]+}", self._one),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        shown = [
            {"number": one.number, "received_at": one.received_at, "reason": one.reason, "size_bytes": len(one.request)}
            for one in self._of(request)
        ]
        return json_answer({"rejects": shown, "next": None})

    async def _one(self, request: web.Request) -> web.Response:
        for one in self._of(request):
            if str(one.number) == request.match_info["number"]:
                showed(request, "reject", one.number)
                return web.Response(
                    body=one.request, content_type="application/octet-stream", headers={"Cache-Control": "no-store"}
                )
        raise not_found()

    def _of(self, request: web.Request) -> Sequence[Reject]:
        require(request, "personal")  # a body may hold anything
        parameters(request)
        self._forget()
        kept = self._kept.get(request.match_info["slug"])
        if kept is None:
            raise not_found()
        return tuple(kept)

    def _forget_later(self) -> None:
        if self._timer is None:
            first = min(kept[0].received_at + self._for(slug) for slug, kept in self._kept.items() if kept)
            delay_s = min(max(1.0, (first - self._now()).total_seconds()), LATEST_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._forget()
        if any(self._kept.values()):
            self._forget_later()

    def _forget(self) -> None:
        """Erase what is too old; also what a clock that was set back shows as coming from the future."""
        now = self._now()
        for slug, kept in self._kept.items():
            while kept and not kept[0].received_at <= now < kept[0].received_at + self._for(slug):
                kept.popleft()
        suppressions = self._suppressions()
        if suppressions is not self._looked_for:
            self._looked_for = suppressions  # what came later was looked at when it came
            for slug, kept in [*self._kept.items()] if suppressions else ():
                stay = [one for one in kept if not one.names_forgotten(self._tenants[slug], suppressions)]
                self._kept[slug] = deque(stay, maxlen=self._limit)

    def _for(self, slug: str) -> timedelta:
        return self._kept_for.get(slug, KEPT_FOR)


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    encodings = {hdrs.TRANSFER_ENCODING.lower().encode()}  # the body is kept as it is without its chunks
    return ((name, value) for name, value in headers if name.lower() not in SECRET_HEADERS | encodings)
