"""Compares what answers showed with what the projection holds, and appends an observation of each difference.

An answer is compared once the projection is applied up to the log's end as it was after the settle delay. What differs
is saved with the very bytes of its observation before these are appended: after a crash the same bytes come again, and
the log takes them once.
"""

import asyncio
import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from whatsms_events import metrics
from whatsms_events.backfill.gaps import MessagesByTicket, find_gaps
from whatsms_events.backfill.run import LiveRun
from whatsms_events.backfill.shown import last_shown, shown_payload, unpack
from whatsms_events.domain import drift
from whatsms_events.domain.differences import LISTED_ONLY
from whatsms_events.domain.drift import Finding, Sighting, Verdict
from whatsms_events.domain.events import Event, to_micros
from whatsms_events.domain.last_message import Told, explained
from whatsms_events.domain.repair import COMPARED, ItemCame, compared, is_left
from whatsms_events.domain.rows import Key, Row
from whatsms_events.domain.sighting import as_of
from whatsms_events.domain.texts import still_told
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import InvalidEventError, TransientError
from whatsms_events.storage.repair.runs import Item

BATCH: Final = 100

LOOK_S: Final = 0.5
"""How often the comparison asks which items are due: items that are compared one by one would cost a commit each."""

BEHIND_LIMIT_S: Final = 600.0
"""A projection that has not reached a position after this long has no consumer."""

_EVER: Final = datetime.max.replace(tzinfo=UTC)
"""Observations are appended whatever their due time, so that a clock that was set back hides none."""

log = structlog.get_logger()

_events = msgspec.json.Decoder(Event)
_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Aim:
    """Items that were due `at` may be compared once the projection is applied up to `position`."""

    position: int
    at: datetime


@dataclass(slots=True)
class _Outcomes:
    """What became of the items of one batch."""

    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unsettled: int = 0


class Comparison:
    """Compares the items of one run as they become due."""

    def __init__(self, live: LiveRun) -> None:
        self._live = live
        self._parts = live.parts
        self._aim: Aim | None = None
        self._look_at = self._parts.now()
        self._found = True  # whether something may be left to append: by an earlier life of this run, or the last batch

    async def step(self) -> bool:
        """Append what was found, or compare a batch that is due; False where there is nothing to do now.

        Raises TransientError where the projection stays behind, and what storage and committer raise.
        """
        live = self._live
        if self._found:
            found = await self._parts.checkpoints.due(live.run, ["found"], _EVER, BATCH)
            self._found = bool(found)
            if found:
                await self._append(found)
                return True
        aim = await self._take_aim()
        if aim is None or not await self._applied(aim):
            return False
        at = min(aim.at, self._parts.now())  # a clock that was set back since makes nothing due
        batch = await self._parts.checkpoints.due(live.run, COMPARED, at, BATCH)
        if len(batch) < BATCH:
            self._aim = None
        if batch:
            await self._compare(batch)
        return bool(batch)

    async def _take_aim(self) -> Aim | None:
        now = self._parts.now()
        wait_s = (self._look_at - now).total_seconds()
        if self._aim is None and not 0 < wait_s <= LOOK_S:  # longer: the clock was set back
            self._look_at = now + timedelta(seconds=LOOK_S)
            if await self._parts.checkpoints.due(self._live.run, COMPARED, now, 1):
                self._aim = Aim(await self._parts.event_log.end(), now)
        return self._aim

    async def _applied(self, aim: Aim) -> bool:
        through = await self._parts.holdings.applied_through()
        if through >= aim.position:
            return True
        if self._parts.now() - aim.at > timedelta(seconds=BEHIND_LIMIT_S):
            self._aim = None
            raise TransientError(
                f"the projection is applied up to {through}, not up to {aim.position}: is there an active consumer?"
            )
        return False

    async def _compare(self, batch: Sequence[Item]) -> None:
        tenant = self._parts.tenant
        rows = await self._parts.holdings.rows({Key(item.entity, tenant, item.id) for item in batch})
        told = await self._told(batch)
        gaps = await find_gaps(self._parts, batch, rows, told) if self._live.messages == "narrow" else set[str]()
        outcomes = _Outcomes()
        for item in batch:
            wanted = self._with_messages(item, gaps)
            self._judge(wanted, rows.get(Key(item.entity, tenant, item.id)), told, outcomes)
        standing = self._live.standing
        standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + outcomes.unsettled)
        await self._live.save(standing, items=outcomes.items, found=outcomes.findings)
        self._found = bool(outcomes.findings)
        for finding in outcomes.findings:
            metrics.BACKFILL_OBSERVED.labels(finding.entity, finding.kind).inc()

    async def _told(self, batch: Sequence[Item]) -> dict[str, list[Told]]:
        """Return 20 messages of each ticket with a listed last message, or 500 where 20 do not explain that one."""
        shown = {item.id: last_shown(item) for item in batch if item.entity == "ticket"}
        held: dict[str, list[Told]] = {}
        for per_ticket in (20, 500):
            wanted = [one for one, last in shown.items() if last and not explained(last, held.get(one, []))]
            held |= await self._parts.holdings.recent_messages(self._parts.tenant, wanted, per_ticket) if wanted else {}
        return held

    def _with_messages(self, item: Item, gaps: Container[str]) -> Item:
        """Return a ticket's item with `messages` set: reading may send receipts, so it is done on request only."""
        if item.entity != "ticket":
            return item
        if unpack(item).gone:  # it has no list
            return replace(item, messages="none")
        wanted = self._live.messages == "full" or item.id in gaps
        return replace(item, messages="wanted") if wanted and item.messages == "none" else item

    def _judge(self, item: Item, row: Row | None, told: MessagesByTicket, outcomes: _Outcomes) -> None:
        """Add to `outcomes` what becomes of an item."""
        came, finding, observed = self._compared(item, row, told)
        if finding is not None:
            outcomes.findings.append(finding)
        outcomes.unsettled += is_left(item.state, came)
        outcomes.items.append(self._live.step(item, came, **observed))

    def _compared(
        self, item: Item, row: Row | None, told: MessagesByTicket
    ) -> tuple[ItemCame, Finding | None, dict[str, bytes]]:
        """Return the result for the item, the finding, and the bytes of its observation as fields of the item."""
        try:
            sighting, verdict = self._verdict(item, row, told)
        except InvalidEventError as exc:  # an answer about something else than what was asked for
            log.warning("observation.refused", entity=item.entity, reason=exc.reason)
            return "leave", None, {}
        finding = verdict if isinstance(verdict, Finding) else None
        came = compared(verdict if isinstance(verdict, str) else "differs", item.entity, item.state, item.rounds)
        if finding is None or came != "differs":
            return came, None, {}
        event, raw = drift.observation(self._parts.tenant, sighting, row, received_at=self._parts.now())
        if len(event.data) > self._parts.plan.data_limit_bytes:
            log.warning("observation.too_large", entity=item.entity, size_bytes=len(event.data))
            return "leave", None, {}
        return came, finding, {"raw": raw, "found": _json.encode(event)}

    def _verdict(self, item: Item, row: Row | None, told: MessagesByTicket) -> tuple[Sighting, Verdict]:
        """Compare a row with what was seen of an item: its detail, and what only its list showed.

        Raises InvalidEventError.

        An observation has one time. With the part that only the list showed, all of it is as old as the list; so that
        part is left out where it shows nothing new, or where the row is newer.
        """
        sighting = self._in_time(self._sighting(item), row)
        if (whole := self._listed(item, sighting, told)) is not None:
            whole = self._in_time(whole, row)
            verdict = drift.compare(self._parts.tenant, whole, row)
            if isinstance(verdict, Finding) and {*verdict.fields} & {*LISTED_ONLY[item.entity]}:
                return whole, verdict
        return sighting, drift.compare(self._parts.tenant, sighting, row)

    def _in_time(self, sighting: Sighting, row: Row | None) -> Sighting:
        """Leave out texts whose days are over: retention blanked them here, or would at once."""
        if not self._parts.plan.texts_s:
            return sighting
        cutoff = to_micros(self._parts.now() - timedelta(seconds=self._parts.plan.texts_s))
        return replace(sighting, payload=still_told(sighting.entity, sighting.payload, row, cutoff))

    def _sighting(self, item: Item) -> Sighting:
        """Return what was seen, without the fields that only lists show."""
        assert item.as_of is not None  # noqa: S101 - what is compared was seen
        return Sighting(
            entity=item.entity,
            id=item.id,
            payload=shown_payload(item.entity, unpack(item)),
            as_of=self._as_of(item.as_of),
            log_end=item.log_end,
            ticket_id=item.ticket_id,
        )

    def _listed(self, item: Item, sighting: Sighting, told: MessagesByTicket) -> Sighting | None:
        """Return all that was seen, as of the list; None where the list showed nothing that the detail does not."""
        shown = unpack(item)
        if shown.gone or not shown.listed or shown.listed_as_of is None:
            return None
        return replace(
            sighting,
            payload=shown_payload(item.entity, shown, with_listed=True),
            as_of=self._as_of(shown.listed_as_of),
            log_end=shown.listed_log_end,
            explained=explained(last_shown(item), told.get(item.id, ())),
        )

    def _as_of(self, seen_at: datetime) -> datetime:
        return as_of(seen_at, self._parts.now(), settle_s=self._parts.plan.settle_s)

    async def _append(self, found: Sequence[Item]) -> None:
        """Append the observations, all in one commit or few, and close the items of those that were committed."""
        async with asyncio.TaskGroup() as tasks:
            submitted = [tasks.create_task(self._submit(item)) for item in found]
        failures = [task.result() for task in submitted]
        done = [
            self._live.step(item, "appended") for item, failure in zip(found, failures, strict=True) if failure is None
        ]
        # Saved even where others failed: else a committer with little room would be given the same ones for ever.
        await self._live.save(self._live.standing, items=done)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _submit(self, item: Item) -> TransientError | None:
        raw, event = item.raw or b"", _events.decode(item.found or b"")
        try:
            outcome = await self._parts.submit(Append(event, raw, hashlib.sha256(raw).digest()))
        except TransientError as exc:
            return exc
        if outcome.kind == "parked":
            log.warning("observation.parked", entity=item.entity, id=str(event.id), reason=outcome.reason)
        return None
