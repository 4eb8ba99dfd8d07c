"""This module watches what each vendor account sends, and raises an alarm: a gauge, a detail of /readyz, a log line."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.door import OFFSET_WINDOW, ClockOffset, ParkedInARow
from whatsms_events.domain.events import Event
from whatsms_events.storage.log.commit import Outcome

PARKED_ADVICE: Final = (
    "none of them is understood: read one with `whatsms-events parked show`; for other_tenant compare its tenantId "
    "with tenants.<slug>.tenant_id; mend the setting, then `whatsms-events parked retry`"
)
BEHIND_ADVICE: Final = (
    "either the vendor's clock is behind (or ours ahead): check ours against a time server and tell the vendor; or its "
    "queue is late: then wait. Until it ends, what the REST API shows may win over newer webhooks"
)
AHEAD_ADVICE: Final = (
    "the vendor's clock is ahead, or ours is behind: check ours against a time server and tell the vendor. Until it "
    "ends, a webhook may win over what the REST API shows later"
)

log = structlog.get_logger()


class TenantSender:
    """The vendor as the sender of one tenant's deliveries, as far as this process sees it."""

    def __init__(self, slug: str) -> None:
        self._slug = slug
        self._parked = ParkedInARow()
        self._clock = ClockOffset()
        metrics.PARKED_IN_A_ROW.labels(slug).set(0)

    @property
    def detail(self) -> Mapping[str, object]:
        """What is known of the sender, for /readyz: words and plain numbers."""
        offset_s = self._clock.offset_s
        return {
            "state": "alarm" if self._parked.alarm or self._clock.alarm else "ok",
            "parked_in_a_row": self._parked.count,
            "parked_reason": self._parked.reason,
            "clock": "differs" if self._clock.alarm else "agrees" if offset_s is not None else "unknown",
            "clock_offset_s": None if offset_s is None else round(offset_s, 1),
        }

    def committed(self, outcomes: Sequence[Outcome], now: datetime) -> None:
        """Note deliveries that were committed, in their order. Redeliveries say nothing."""
        before = self._parked.count
        for outcome in outcomes:
            if outcome.kind == "accepted" and self._parked.accepted():
                log.info("deliveries.understood", tenant=self._slug)
            elif outcome.kind == "parked" and not outcome.redelivered:
                self._note_parked(outcome.reason or "", now)
        if before != self._parked.count:
            metrics.PARKED_IN_A_ROW.labels(self._slug).set(self._parked.count)
        # The clock looks at no more than its window, and a commit may hold many times as many.
        told = [one.event for one in outcomes if one.event is not None and one.event.occurred_at is not None]
        for event in told[-OFFSET_WINDOW:]:
            self._note_clock(event)
        if told and (offset_s := self._clock.offset_s) is not None:
            metrics.CLOCK_OFFSET.labels(self._slug).set(offset_s)

    def _note_parked(self, reason: str, now: datetime) -> None:
        if self._parked.parked(reason, now):
            log.error(
                "deliveries.parked", tenant=self._slug, reason=reason, count=self._parked.count, detail=PARKED_ADVICE
            )

    def _note_clock(self, event: Event) -> None:
        if event.occurred_at is None:
            return
        change = self._clock.accepted(event.occurred_at, event.received_at)
        offset_s = self._clock.offset_s
        if offset_s is None:
            return
        if change == "differs":
            advice = BEHIND_ADVICE if offset_s > 0 else AHEAD_ADVICE
            log.error("clock.differs", tenant=self._slug, offset_s=round(offset_s, 1), detail=advice)
        elif change == "agrees":
            log.info("clock.agrees", tenant=self._slug, offset_s=round(offset_s, 1))
