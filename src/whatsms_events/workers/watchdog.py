"""Raise an alarm where a tenant's webhooks no longer reach us.

A hook that the vendor switched off, a URL that leads elsewhere and a secret that was changed cause no error here. So
the watchdog looks at how long no webhook came, at refused signatures, and at the vendor's REST API.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.events import Ticket
from whatsms_events.domain.gone import is_gone
from whatsms_events.domain.last_message import Told, explained, is_same
from whatsms_events.domain.rows import Key, Row
from whatsms_events.domain.silence import SilenceVerdict, patience, usual_gap, verdict
from whatsms_events.errors import UpstreamError, UpstreamForbiddenError, UpstreamUnauthorizedError
from whatsms_events.storage.log.arrivals import Arrivals, Latest
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.pages import Place

PAGE_SIZE: Final = 20
DETAILS: Final = 3
"""At most so many tickets are read by id in one look: the list does not say when a ticket changed."""

REFUSED_S: Final = 3600.0
"""The wait after a look whose key was refused. The next look is made all the same: a proxy may have refused it."""

log = structlog.get_logger()

Probe = Callable[[datetime, int], Awaitable[bool | None]]
"""Given a time and a position, tells whether the account shows later news that no webhook told.

The position is that of the last accepted webhook. The answer is None, unknown, until the projection shows that one.
"""


class Watchdog:
    """The watch over one tenant's webhooks. `rejects` counts the signatures refused so far; `probe` needs a key.

    `ask` is called once for each silence, with the cause `silence`: what is missed from then on has to be fetched. It
    is called with `heard` when webhooks come again: only then nothing more is missed. It may raise
    StorageUnavailableError, and is called again by the next look then.
    """

    def __init__(
        self,
        slug: str,
        tenant: str,
        *,
        arrivals: Arrivals,
        rejects: Callable[[], int],
        probe: Probe | None,
        gaps: float,
        floor_s: float,
        probe_interval_s: float,
        now: Callable[[], datetime],
        ask: Callable[[str], Awaitable[None]],
    ) -> None:
        self._slug = slug
        self._tenant = tenant
        self._arrivals = arrivals
        self._rejects = rejects
        self._probe = probe
        self._gaps = gaps
        self._floor_s = floor_s
        self._probe_interval_s = probe_interval_s
        self._now = now
        self._ask = ask
        self._unasked: str | None = None  # the cause of what is still to be asked for
        self._silent = metrics.SILENT.labels(slug)
        self._last_accepted = metrics.LAST_ACCEPTED.labels(slug)
        self._started_at = now()
        self._latest = Latest()
        self._state: SilenceVerdict = "heard"
        self._rejects_before = rejects()
        self._probes = 0
        self._probed_at: datetime | None = None
        self._probe_says = "not asked"
        self._refused = False  # the key, by the last look
        self._silent.set(0)

    @property
    def active(self) -> bool:
        """Tell that the watchdog works: each process that takes webhooks in has one of its own."""
        return True

    @property
    def detail(self) -> Mapping[str, object]:
        """What the watchdog knows, as words and plain numbers, for /readyz."""
        gap, last = usual_gap(self._latest.times), self._latest.last
        return {
            "tenant": self._slug,
            "tenant_id": self._tenant,
            "state": "silent" if self._state in ("activity", "rejects") else self._state,
            "cause": self._state if self._state in ("activity", "rejects") else None,
            "last_accepted": None if last is None else last.isoformat(),
            "silent_s": round(self._silent_s(self._now())),
            "usual_gap_s": None if gap is None else round(gap, 1),
            "patience_s": round(self._patience_s()),
            "rejects": self._rejects() - self._rejects_before,
            "probe": self._probe_says,
        }

    async def run_once(self) -> int:
        """Look once, say where silence begins or ends, return 0. Raise StorageUnavailableError if the log is away."""
        await self._look_once()
        if self._unasked is not None:
            await self._ask(self._unasked)
            self._unasked = None
        return 0

    async def _look_once(self) -> None:
        latest = await self._arrivals.latest()
        self._last_accepted.set(0 if latest.last is None else latest.last.timestamp())
        if latest.last != self._latest.last:  # `parked retry` appends too, but brings no news of the vendor
            self._hear(latest)
        self._latest = latest
        if self._state in ("activity", "rejects"):
            return  # only a webhook ends the silence: a backfill fetches what was missed, and the hook stays broken
        now = self._now()
        state = self._judge(now)
        if state == "quiet" and self._probe is not None and self._may_probe(now):
            await self._look(self._probe, now)
            state = self._judge(now)
        self._state = state
        if state in ("activity", "rejects"):
            self._raise_alarm(state, now)

    async def look(self) -> None:
        """Raise StorageUnavailableError if the log is away: nothing else halts a watchdog."""
        await self._arrivals.latest()

    async def close(self) -> None:
        """Nothing is open."""

    def _judge(self, now: datetime) -> SilenceVerdict:
        # A process that has just started could hear nothing yet, however old the last accepted webhook is.
        listened_s = (now - self._started_at).total_seconds()
        if listened_s < self._floor_s:
            return "heard"
        rejects = self._rejects() - self._rejects_before
        return verdict(self._silent_s(now), self._patience_s(), probes=self._probes, rejects=rejects)

    def _silent_s(self, now: datetime) -> float:
        return max(0.0, (now - (self._latest.last or self._started_at)).total_seconds())

    def _patience_s(self) -> float:
        return patience(usual_gap(self._latest.times), gaps=self._gaps, floor_s=self._floor_s)

    def _may_probe(self, now: datetime) -> bool:
        """Tell whether a look is due; a clock that was set back must not delay the look."""
        elapsed_s = None if self._probed_at is None else (now - self._probed_at).total_seconds()
        interval_s = max(REFUSED_S, self._probe_interval_s) if self._refused else self._probe_interval_s
        return elapsed_s is None or not 0 <= elapsed_s < interval_s

    async def _look(self, probe: Probe, now: datetime) -> None:
        self._probed_at = now
        # What changed before this process listened may have been missed for that reason.
        since = max(self._latest.last or self._started_at, self._started_at)
        try:
            news = await probe(since, self._latest.position)
        except UpstreamError as exc:  # refused signatures still count; a wrong key halts the backfill, which says so
            self._probe_says = str(exc)
            self._refused = isinstance(exc, UpstreamUnauthorizedError | UpstreamForbiddenError)
            log.warning("webhooks.unprobed", tenant=self._slug, error=type(exc).__name__, reason=str(exc))
            return
        self._refused = False
        self._probe_says = {True: "news", False: "no news", None: "projection behind"}[news]
        if news is not None:
            self._probes = self._probes + 1 if news else 0

    def _raise_alarm(self, cause: SilenceVerdict, now: datetime) -> None:
        gap = usual_gap(self._latest.times)
        self._silent.set(1)
        log.error(
            "webhooks.silent",
            tenant=self._slug,
            cause=cause,
            silent_s=round(self._silent_s(now)),
            usual_gap_s=None if gap is None else round(gap, 1),
        )
        self._unasked = "silence"

    def _hear(self, latest: Latest) -> None:
        """Begin anew at a webhook that was accepted, by this process or by another."""
        silent_s, was = self._silent_s(latest.last or self._now()), self._state
        self._rejects_before = self._rejects()
        self._probes = 0
        self._probed_at = None
        self._refused = False
        self._state = "heard"
        if was in ("activity", "rejects"):
            self._silent.set(0)
            log.info("webhooks.heard", tenant=self._slug, silent_s=round(silent_s))
            self._unasked = "heard"


MARGIN: Final = timedelta(minutes=1)
"""News so shortly after the last webhook may be what that webhook told: the times are of two clocks."""


class TicketProbe:
    """Compares the first page of tickets, where the last changed ones are, with what the projection holds."""

    def __init__(self, client: Client, holdings: Holdings, tenant: str) -> None:
        self._client = client
        self._holdings = holdings
        self._tenant = tenant

    async def __call__(self, since: datetime, position: int) -> bool | None:
        """Return whether a ticket shows news from after `since` that no webhook told; see `Probe`.

        Raise UpstreamError where the API refuses or is away.
        """
        if await self._holdings.applied_through() < position:
            return None
        page = await self._client.tickets.page(Place(), page_size=PAGE_SIZE)
        differing = await self._differing(page.items)
        since += MARGIN
        if any(isinstance(one.created_at, datetime) and one.created_at > since for one in differing):
            return True
        for one in differing[:DETAILS]:
            changed_at = (await self._client.tickets.get(str(one.id))).updated_at
            # An older difference was missed before this silence, and says nothing about it.
            if not isinstance(changed_at, datetime) or changed_at > since:
                return True
        return False

    async def _differing(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Return those that are unknown here, have another status, or a last message that nobody told."""
        keys = {str(one.id): Key("ticket", self._tenant, str(one.id)) for one in tickets}
        rows = await self._holdings.rows(list(keys.values()))
        held = {one: rows[key] for one, key in keys.items() if key in rows}
        told = await self._holdings.recent_messages(self._tenant, list(held))
        return [one for one in tickets if _differs(one, held.get(str(one.id)), told.get(str(one.id), []))]


def _differs(ticket: Ticket, row: Row | None, told: Sequence[Told]) -> bool:
    if row is None or is_gone(row.values["gone"], row.versions):
        return True
    status, last_message = row.values["status"], row.values["last_message"]
    if isinstance(ticket.status, str) and ticket.status and ticket.status != status:
        return True
    shown = ticket.last_message if isinstance(ticket.last_message, str) else None
    held = last_message if isinstance(last_message, str) else None
    return not explained(shown, told) and not is_same(shown, held)
