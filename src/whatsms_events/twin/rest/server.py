"""WhatSMS's REST API v2 for the account of a world: key, limits, faults, and a record of what was asked."""

import asyncio
import codecs
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import format_datetime
from functools import partial
from hmac import compare_digest
from types import TracebackType
from typing import Final, Self, assert_never

from aiohttp import hdrs, web

from whatsms_events.clock import within
from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.rest.answers import Ask, answer, read_body, refused
from whatsms_events.twin.rest.faults import MERGED, Mishaps, RestFault, RestFaults, is_merged
from whatsms_events.twin.rest.ids import inner_id, merged, with_outer_ids
from whatsms_events.twin.rest.limits import RestLimits, Windows
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.writes import Writes

PREFIX: Final = "/api/v2"
API_KEY: Final = "sk_test_twin"
UNKNOWN: Final = "?"
"""What the record says of a request that no endpoint answers."""
BODY_LIMIT_BYTES: Final = 1024 * 1024
KEEPALIVE_S: Final = 3600.0
_RECENT: Final = 200_000
_STATUSES: Final = (
    (RestFault.UNAUTHORIZED, 401),
    (RestFault.FORBIDDEN, 403),
    (RestFault.ITEM_403, 403),
    (RestFault.ERROR, 500),
)
"""Faults that answer with this status and do nothing of what was asked."""
_HTML: Final = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"


@dataclass(frozen=True, slots=True)
class RestEndpoint:
    """One endpoint: how it is asked for, what does it, the status of its success, and whether it is a list of pages."""

    method: str
    template: str
    verb: Callable[[Ask], Json]
    status: int = 200
    paged: bool = False


@dataclass(slots=True)
class RequestRecord:
    """A request: when it came by the loop's clock, what it was for, and its answer's status, 0 where it got none."""

    at: float
    method: str
    template: str
    status: int = 0


class Rest:
    """Serves one account to requests that have the key.

    `api_key`, `faults`, `limits` and `page_limit` may be set anew at any time. `requests` are the last ones in the
    order they came, `counts` all of them by method and template as in ("GET", "/tickets/{id}"), `statuses` their
    answers.
    `on_request` is called before each request: with it a test lets the world go on while a client reads.
    """

    def __init__(
        self,
        account: Account,
        *,
        api_key: str = API_KEY,
        limits: RestLimits = RestLimits(),  # noqa: B008 - frozen
        faults: RestFaults | None = None,
    ) -> None:
        self.api_key = api_key
        self.faults = faults or RestFaults()
        self.page_limit = 100
        self.requests: deque[RequestRecord] = deque(maxlen=_RECENT)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.statuses: Counter[int] = Counter()
        self.on_request: Callable[[], None] = lambda: None
        self.account = account
        self._windows = Windows(limits)
        self._mishaps = Mishaps(self.faults.seed)
        self._closing = asyncio.Event()

    @property
    def limits(self) -> RestLimits:
        """How many requests a window has room for."""
        return self._windows.limits

    @limits.setter
    def limits(self, limits: RestLimits) -> None:
        self._windows.limits = limits

    @property
    def message_list_reads(self) -> int:
        """How often somebody asked for a ticket's messages, which may tell a customer that they were read."""
        return self.counts["GET", "/tickets/{id}/messages"]

    @property
    def demanded(self) -> Counter[RestFault]:
        """The faults that were asked for and have not come yet."""
        return self._mishaps.demanded

    def demand(self, fault: RestFault, count: int = 1, *, after: int = 0) -> None:
        """Ask for the fault `count` times, when `after` more requests that it could befall have passed."""
        self._mishaps.demand(fault, count, after)

    def close(self) -> None:
        """Send slow answers at once."""
        self._closing.set()

    def app(self) -> web.Application:
        """Return an application that serves the API under /api/v2."""
        self._closing.clear()
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        for endpoint in rest_endpoints(Reads(self.account), Writes(self.account)):
            path = PREFIX + endpoint.template
            app.router.add_route(endpoint.method, path, partial(self._serve, endpoint))
        app.router.add_route("*", PREFIX + "/{tail:.*}", partial(self._serve, None))
        return app

    async def _serve(self, endpoint: RestEndpoint | None, request: web.Request) -> web.StreamResponse:
        """Record the request, check its key and the limits, apply faults, and answer."""
        self.on_request()
        method, template = (endpoint.method, endpoint.template) if endpoint else (UNKNOWN, UNKNOWN)
        seen = RequestRecord(asyncio.get_running_loop().time(), method, template)
        self.requests.append(seen)
        self.counts[method, template] += 1
        faults: frozenset[RestFault] = frozenset()
        if not _is_key(request, self.api_key):
            response = refused(401)
        elif wait_s := self._windows.take(method, template, seen.at):
            response = self._limited(wait_s)
        else:
            listing, item = endpoint is not None and endpoint.paged, _item(endpoint, request)
            faults = self._mishaps.befall(self.faults, listing=listing, item=item)
            response = self._refusal(faults) or _garbled(await self._perform(endpoint, request, faults), faults)
        if RestFault.SLOW in faults:
            await within(self._closing, self.faults.slow_s)
        response.headers[hdrs.SERVER] = "whatsms-twin"
        now = format_datetime(self.account.now.astimezone(UTC), usegmt=True)
        response.headers[hdrs.DATE] = "ontem" if RestFault.BAD_DATE in faults else now
        if RestFault.CUT in faults:
            return await _cut(request, response)
        seen.status = response.status
        self.statuses[response.status] += 1
        return response

    async def _perform(
        self, endpoint: RestEndpoint | None, request: web.Request, faults: frozenset[RestFault]
    ) -> web.Response:
        """Let the verb answer; what it refuses is an answer too."""
        if endpoint is None:
            return refused(404)
        asked, own = request.match_info.get("id", ""), RestFault.OTHER_IDS in faults
        if not faults.isdisjoint(MERGED):
            return merged(self.account, self.faults, faults, request)
        if own:
            asked = inner_id(self.account, asked)
        try:
            body = {} if endpoint.method == "GET" else read_body(await request.read())
            ask = Ask(asked, request.query, body, faults, self.page_limit, partial(is_merged, self.faults))
            shown = endpoint.verb(ask)
        except web.HTTPException as exc:
            return refused(exc.status, exc.text)
        if RestFault.EMPTY_204 in faults and [] in shown.values():
            return web.Response(status=204, body=b"")
        return answer(endpoint.status, with_outer_ids(shown) if own else shown)

    def _refusal(self, faults: frozenset[RestFault]) -> web.Response | None:
        """Return the answer of a fault for which nothing is done, if one befell the request."""
        if RestFault.LIMITED in faults:
            return self._limited(self.faults.retry_after_s)
        for fault, status in _STATUSES:
            if fault in faults:
                return refused(status)
        return None

    def _limited(self, wait_s: int) -> web.Response:
        response = refused(429)
        match self.faults.retry_after:
            case "seconds":
                response.headers[hdrs.RETRY_AFTER] = str(wait_s)
            case "date":
                until = (self.account.now + timedelta(seconds=wait_s)).astimezone(UTC)
                response.headers[hdrs.RETRY_AFTER] = format_datetime(until, usegmt=True)
            case "absurd":
                response.headers[hdrs.RETRY_AFTER] = self._mishaps.absurd()
            case "missing":
                pass
            case _:
                assert_never(self.faults.retry_after)
        return response


class RestServer:
    """Listens while it is open: the API, and routes beside it; port 0 takes a free one. Raises OSError if it cannot."""

    def __init__(
        self, rest: Rest, host: str = "127.0.0.1", port: int = 0, *, beside: Iterable[web.AbstractRouteDef] = ()
    ) -> None:
        self.origin = ""
        self._rest = rest
        self._host = host
        self._port = port
        app = rest.app()
        app.add_routes(beside)
        # Shutting down waits for what is being answered: `Rest.close` has let that go.
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=1.0)

    @property
    def url(self) -> str:
        """What a client takes as the API's URL."""
        return self.origin + PREFIX

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        self.origin = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rest.close()
        await self._runner.cleanup()


def rest_endpoints(reads: Reads, writes: Writes) -> Iterable[RestEndpoint]:
    """Return the vendor's endpoints. Its page names no method for updates, so PUT and PATCH do the same."""
    return (
        RestEndpoint("GET", "/tickets", reads.list_tickets, paged=True),
        RestEndpoint("POST", "/tickets", writes.create_ticket, 201),
        RestEndpoint("GET", "/tickets/{id}", reads.get_ticket),
        RestEndpoint("PUT", "/tickets/{id}", writes.update_ticket),
        RestEndpoint("PATCH", "/tickets/{id}", writes.update_ticket),
        RestEndpoint("GET", "/tickets/{id}/messages", reads.list_messages, paged=True),
        RestEndpoint("POST", "/tickets/{id}/messages", writes.send_message, 201),
        RestEndpoint("GET", "/contacts", reads.list_contacts, paged=True),
        RestEndpoint("POST", "/contacts", writes.create_contact, 201),
        RestEndpoint("GET", "/contacts/{id}", reads.get_contact),
        RestEndpoint("PUT", "/contacts/{id}", writes.update_contact),
        RestEndpoint("PATCH", "/contacts/{id}", writes.update_contact),
        RestEndpoint("GET", "/campaigns", reads.list_campaigns, paged=True),
        RestEndpoint("POST", "/campaigns", writes.create_campaign, 201),
        RestEndpoint("GET", "/ai-agents", reads.list_agents),
        RestEndpoint("POST", "/ai-agents/assign", writes.assign_agent),
    )


def _item(endpoint: RestEndpoint | None, request: web.Request) -> str:
    """Return the id of what is asked for by its id, nothing for any other request."""
    by_id = endpoint is not None and endpoint.method == "GET" and endpoint.template.endswith("/{id}")
    return request.match_info["id"] if by_id else ""


def _is_key(request: web.Request, api_key: str) -> bool:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return scheme.lower() == "bearer" and compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), api_key.encode()
    )


def _garbled(response: web.Response, faults: frozenset[RestFault]) -> web.Response:
    """Return what a proxy makes of an answer, where such a fault befell it."""
    if RestFault.BOM in faults and isinstance(response.body, bytes):
        response.body = codecs.BOM_UTF8 + response.body
    for fault, status, title in ((RestFault.HTML_502, 502, "502 Bad Gateway"), (RestFault.HTML_200, 200, "WhatSMS")):
        if fault in faults:
            return web.Response(status=status, text=_HTML.format(title), content_type="text/html")
    return response


async def _cut(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Send the answer's head and half of its body, and close the connection."""
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - the twin answers with bytes only
    half = web.StreamResponse(status=response.status, headers=response.headers)
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return half
