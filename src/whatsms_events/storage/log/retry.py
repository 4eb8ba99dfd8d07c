"""Retry parked deliveries: read them again with today's code, and append what is understood by now."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from whatsms_events.domain.events import Event
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.log.parked import ArrivalPlace, Parked, ParkedDelivery, Taken

PIECE: Final = 100
"""So many are read from the list at a time."""


@dataclass(frozen=True, slots=True)
class RetriedDeliveries:
    """How many this retry appended, and how many stay parked; `go_on` is where to go on where others were not tried.

    `known` were in the log already. `gone` were listed, and somebody else retried or discarded them meanwhile.
    """

    appended: int = 0
    parked: int = 0
    known: int = 0
    gone: int = 0
    go_on: ArrivalPlace | None = None

    @property
    def words(self) -> str:
        """Say what became of them; what stays parked is for who asks to say."""
        known = f", {self.known} in the log already" if self.known else ""
        gone = f", {self.gone} gone meanwhile" if self.gone else ""
        return f"{self.appended} appended{known}{gone}"


class DeliveryRetry:
    """Retries the parked deliveries of a log. `tenants` returns the ids of the tenants that the configuration has."""

    def __init__(self, parked: Parked, tenants: Callable[[], Sequence[str]]) -> None:
        self._parked = parked
        self._tenants = tenants

    async def one(self, parked_id: UUID) -> Taken | None:
        """Append the event that this release makes of the delivery; return None where no such delivery is parked.

        Raise InvalidEventError where the delivery is still not understood: it stays parked.
        """
        found = await self._parked.show(parked_id)
        return None if found is None or found[0].discarded_at is not None else await self._take(*found)

    async def all(
        self, reason: str, *, after: ArrivalPlace | None = None, enough: Callable[[], bool] = lambda: False
    ) -> RetriedDeliveries:
        """Retry all deliveries with a reason, each once, the oldest first, until `enough` says so.

        It begins after a place, where one is given: `go_on` of the time before. `enough` is asked before each but the
        first, so one at least is tried.
        """
        done = RetriedDeliveries()
        while page := await self._parked.list(after, PIECE, reason=reason):
            for one in page:
                if done != RetriedDeliveries() and enough():
                    return replace(done, go_on=after)
                try:
                    done = _counted(done, await self.one(one.id))
                except InvalidEventError:
                    done = replace(done, parked=done.parked + 1)
                after = one.place
        return done

    async def _take(self, one: ParkedDelivery, raw: bytes) -> Taken | None:
        try:
            event = _read(one, raw, self._tenants())
        except InvalidEventError as exc:
            raise InvalidEventError(exc.reason, f"{exc.detail} (it stays parked)".strip()) from exc
        return await self._parked.take(one.id, Append(event, raw, hashlib.sha256(raw).digest(), one.signed_by))


def _counted(done: RetriedDeliveries, taken: Taken | None) -> RetriedDeliveries:
    """Count one that does not stay parked."""
    if taken is None:
        return replace(done, gone=done.gone + 1)
    return replace(done, known=done.known + 1) if taken.duplicate else replace(done, appended=done.appended + 1)


def _read(one: ParkedDelivery, raw: bytes, tenants: Sequence[str]) -> Event:
    """Return the event for the tenant that the delivery was parked under, or raise InvalidEventError.

    Where no tenant has that id any more, the setting was wrong: the delivery belongs to the tenant that its body names.
    """
    try:
        return normalize(raw, tenant=one.tenant, received_at=one.received_at)
    except InvalidEventError as exc:
        if exc.reason != "other_tenant" or one.tenant in tenants:
            raise
        for tenant in tenants:
            with suppress(InvalidEventError):
                return normalize(raw, tenant=tenant, received_at=one.received_at)
        raise
