"""The page Acks tells how far our messages got, how long that took by the hour, and which ones are stuck."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aiohttp import web

from whatsms_events.domain import delays
from whatsms_events.domain.delays import OUTCOMES, RANGES, STUCK_AFTER, STUCK_UNTIL, PeriodPart
from whatsms_events.storage.acks import PARTS, SentMessages
from whatsms_events.storage.reads import Queries
from whatsms_events.web.console import places
from whatsms_events.web.console.frame import Frame, Visit
from whatsms_events.web.console.heat import heat

PERIODS: Final = ((1, "1 hour"), (24, "24 hours"), (7 * 24, "7 days"), (31 * 24, "31 days"))
"""The periods that a person may choose, in hours."""

STEPS: Final = ("From sent to delivered", "From delivered to read")
"""What `delays.STEPS` are called."""

WORDS: Final = ("all of ours", "sent", "delivered", "read", "played", "failed")
"""What OUTCOMES are called, in their order."""


@dataclass(frozen=True, slots=True)
class Step:
    """How long one step took: the counts of each part by range, all together, and the range in the middle."""

    title: str
    parts: Sequence[Sequence[int]]
    counts: Sequence[int]
    middle: str | None


class AcksPage:
    """The page; a period is chosen in its query."""

    title = "Acks"
    path = places.ACKS

    def __init__(self, frame: Frame, queries: Queries) -> None:
        self._frame = frame
        self._sent = SentMessages(queries)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the page."""
        return [self._frame.get(self.path, self._page)]

    async def _page(self, visit: Visit) -> web.Response:
        asked = places.asked_of(visit)
        found, hours = places.tenant_of(visit, asked), _hours(asked.get("hours", ""))
        known: dict[str, Any] = {"place": places.place, "periods": PERIODS, "hours": hours, "ranges": RANGES}
        if found is None:
            return visit.page("acks.html", slug="", period=None, failed=None, stuck=None, **known)
        slug, tenant = found
        since = visit.now - timedelta(hours=hours)
        parts = min(PARTS, hours) if hours > 1 else 6
        period = await visit.asked("The messages", self._sent.period(tenant.tenant_id, since, visit.now, parts=parts))
        failed = await visit.asked("The failed messages", self._sent.failed(tenant.tenant_id, since, visit.now))
        stuck = await visit.asked(
            "The stuck messages",
            self._sent.stuck(tenant.tenant_id, visit.now, after=STUCK_AFTER, until=STUCK_UNTIL),
        )
        known |= drawn(period.value or [])
        return visit.page("acks.html", slug=slug, period=period, failed=failed, stuck=stuck, **known)


def _hours(text: str) -> int:
    chosen = {str(hours): hours for hours, _ in PERIODS}
    return chosen.get(text, 24)


def drawn(parts: Sequence[PeriodPart]) -> dict[str, Any]:
    """Return what is drawn of a period."""
    counts = delays.total(parts)
    return {
        "funnel": [(word, count) for word, count in zip(WORDS, counts, strict=True)],
        "ours": counts[OUTCOMES.index("ours")],
        "complete": all(one.complete for one in parts),
        "steps": [_step(title, [one.delays[number] for one in parts]) for number, title in enumerate(STEPS)],
        "pieces": parts,
        "heat": heat,
    }


def _step(title: str, parts: Sequence[Sequence[int]]) -> Step:
    counts = [sum(column) for column in zip(*parts, strict=True)] or [0] * len(RANGES)
    return Step(title, parts, counts, _middle(counts))


def _middle(counts: Sequence[int]) -> str | None:
    """Return the range that the median is in; None where nothing was measured."""
    half, seen = sum(counts) / 2, 0
    for name, count in zip(RANGES, counts, strict=True):
        seen += count
        if count and seen >= half:
            return name
    return None
