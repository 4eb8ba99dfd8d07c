"""`parked list`, `show`, `retry`, `discard` and `restore`: what a person does about what could not be understood.

Two kinds are parked: deliveries at the door, named by an id, and events that could not be applied to the projection,
named by the place where they were read, as in `log@17` or `whatsms.messages/3@42`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say, write
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import parse_time
from whatsms_events.errors import ConfigError, NotFoundError
from whatsms_events.service.parts import privacy_key
from whatsms_events.service.stores import opened_log, opened_stores
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.parked import PAGE_LIMIT, Parked, ParkedDelivery, Taken
from whatsms_events.storage.log.retry import DeliveryRetry, RetriedDeliveries
from whatsms_events.storage.projection.apply import Projection, Retried
from whatsms_events.storage.projection.parked import ParkedEvent, ParkedEvents, ReadPlace, parked_name
from whatsms_events.storage.projection.retry import Retry

Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=PAGE_LIMIT))]
ParkedAt = Literal["door", "fold"]

T = TypeVar("T")

Work = Callable[[], Coroutine[Any, Any, int]]
"""A command's work at one of the two places."""


def list_(
    *,
    stage: ParkedAt | None = None,
    reason: str | None = None,
    discarded: bool = False,
    limit: Limit = 50,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """List parked deliveries, oldest first, and then parked events: name, when, tenant, reason, detail, bytes.

    The tenant is its slug, or the tenant id where the configuration has no such tenant any more.

    Parameters
    ----------
    stage
        Only what was parked at the door (deliveries), or at the fold (events).
    reason
        Only what was parked for this reason.
    discarded
        What was discarded and can be restored, instead of what is parked.
    limit
        How many of each at most, 500 or fewer.
    """
    settings = options.load()

    async def at_door() -> list[ParkedDelivery]:
        async with _deliveries(settings) as parked:
            return await parked.list(None, limit, reason=reason, discarded=discarded)

    async def at_fold() -> list[ParkedEvent]:
        async with _events(settings) as (parked, _):
            return await parked.page(None, limit, reason=reason, discarded=discarded)

    slugs = {tenant.tenant_id: slug for slug, tenant in settings.tenants.items()}
    for one in [] if stage == "fold" else run(at_door()):
        say(_line(one, slugs.get(one.tenant, one.tenant)))
    for event in [] if stage == "door" else run(at_fold()):
        say(_event_line(event, slugs.get(event.tenant or "", event.tenant or "-")))
    return 0


def _line(one: ParkedDelivery, tenant: str) -> str:
    when = one.received_at.isoformat(timespec="seconds")
    size = f"{one.size_bytes} bytes{_discarded(one)}"
    return f"{one.id}  {when}  {tenant}  {one.reason} {one.detail}  x{one.count}  {size}"


def _discarded(one: ParkedDelivery | ParkedEvent) -> str:
    return "" if one.discarded_at is None else f"  discarded {one.discarded_at.isoformat()}"


def _event_line(one: ParkedEvent, tenant: str) -> str:
    when = one.parked_at.isoformat(timespec="seconds")
    what = f"{one.reason} {one.detail}".strip()
    return f"{one.place}  {when}  {tenant}  {one.type or '-'}  {what}  {one.size_bytes} bytes{_discarded(one)}"


def show_(name: str, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Write the bytes of one parked delivery or event to standard output, as they came.

    Parameters
    ----------
    name
        As `parked list` shows it.
    """
    settings, found = options.load(), _named(name)

    async def shown() -> bytes:
        if isinstance(found, UUID):
            async with _deliveries(settings) as parked:
                return (await _found(parked, found))[1]
        async with _events(settings) as (events, _):
            event = await events.bytes_of(found)
            if event is None:
                raise _missing(found)
            return event.raw

    write(run(shown()))
    return 0


def retry_(
    name: str | None = None,
    /,
    *,
    reason: str | None = None,
    stage: ParkedAt | None = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Read again with this release what was parked, and append it to the log, or apply it to the projection.

    What is still not understood stays parked: status 1.

    Parameters
    ----------
    name
        As `parked list` shows it.
    reason
        Instead of one: everything that was parked for this reason.
    stage
        With a reason: only what was parked at the door, or at the fold.
    """
    settings, found = options.load(), _one_or_reason(name, reason)
    tenants = [tenant.tenant_id for tenant in settings.tenants.values()]

    async def at_door() -> bool:
        async with _deliveries(settings) as parked:
            retry = DeliveryRetry(parked, lambda: tenants)
            if not isinstance(found, UUID):
                return _tell_deliveries(await retry.all(str(found)))
            return _tell_taken(_there(await retry.one(found), found))

    async def at_fold() -> bool:
        async with _events(settings) as (_, retry):
            if not isinstance(found, ReadPlace):
                return _tell_retried(await retry.all(str(found)))
            return _tell_retried(_there(await retry.one(found), found))

    return max(1 - run(work()) for work in _stages(found, stage, at_door, at_fold))


def _tell_taken(taken: Taken) -> bool:
    print(f"{'was in the log already' if taken.duplicate else 'appended'} at position {taken.position}")
    return True


def _tell_deliveries(done: RetriedDeliveries) -> bool:
    print(f"deliveries: {done.words}" + (f", {done.parked} still parked" if done.parked else ""))
    return not done.parked


def _tell_retried(done: Retried) -> bool:
    left = "".join(f", {count} still parked: {reason}" for reason, count in sorted(done.parked.items()))
    print(f"{done.applied} events applied{left}{done.gone_words}")
    return not done.parked


def discard_(
    name: str | None = None,
    /,
    *,
    reason: str | None = None,
    stage: ParkedAt | None = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Discard one parked delivery or event, or all with a reason.

    A retry leaves it alone. For `retention.discarded_days` the command `parked restore` brings it back; then it goes.

    Parameters
    ----------
    name
        As `parked list` shows it.
    reason
        Instead of one: everything that was parked for this reason.
    stage
        With a reason: only what was parked at the door, or at the fold.
    """
    settings, found = options.load(), _one_or_reason(name, reason)

    at = now()  # the same at both places: one discard, that one command undoes

    def at_door(parked: Parked) -> Awaitable[int]:
        return parked.discard(found, at) if isinstance(found, UUID) else parked.discard_all(str(found), at)

    def at_fold(events: ParkedEvents) -> Awaitable[int]:
        return events.discard(found, at) if isinstance(found, ReadPlace) else events.discard_all(str(found), at)

    count = _count(settings, found, stage, at_door, at_fold)
    if not count and not isinstance(found, str):
        raise _missing(found)
    undo = f"; to undo it: parked restore --reason {found} --discarded-at {at.isoformat()}" if count else ""
    print(f"{count} discarded{undo}" if isinstance(found, str) else "discarded")
    return 0


def restore_(
    name: str | None = None,
    /,
    *,
    reason: str | None = None,
    discarded_at: str | None = None,
    stage: ParkedAt | None = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Park again what was discarded: one delivery or event, or all with a reason.

    What was discarded for longer than `retention.discarded_days` is gone: status 1.

    Parameters
    ----------
    name
        As `parked list --discarded` shows it.
    reason
        Instead of one: everything that was discarded with this reason.
    discarded_at
        With a reason: only what one discard took, by its time, as `parked discard` or `parked list --discarded` say it.
    stage
        With a reason: only what was parked at the door, or at the fold.
    """
    at = _time_of(discarded_at, reason)
    settings, found = options.load(), _one_or_reason(name, reason)

    def at_door(parked: Parked) -> Awaitable[int]:
        return parked.restore(found) if isinstance(found, UUID) else parked.restore_all(str(found), at)

    def at_fold(events: ParkedEvents) -> Awaitable[int]:
        return events.restore(found) if isinstance(found, ReadPlace) else events.restore_all(str(found), at)

    count = _count(settings, found, stage, at_door, at_fold)
    if not count and not isinstance(found, str):
        raise _missing(found, "discarded")
    print(f"{count} restored" if isinstance(found, str) else "restored")
    return 0


def _time_of(discarded_at: str | None, reason: str | None) -> datetime | None:
    """Return the time of the discard that is to be undone, None where all are; raise ConfigError."""
    if discarded_at is None:
        return None
    if reason is None:
        raise ConfigError("--discarded-at: only with --reason")
    if (at := parse_time(discarded_at)) is None:
        raise ConfigError(f"--discarded-at {discarded_at}: no time as `parked list --discarded` shows it")
    return at


def _count(
    settings: Settings,
    found: UUID | ReadPlace | str,
    stage: ParkedAt | None,
    door: Callable[[Parked], Awaitable[int]],
    fold: Callable[[ParkedEvents], Awaitable[int]],
) -> int:
    """Do it at the door, at the fold, or at both, and return of how many it was done."""

    async def at_door() -> int:
        async with _deliveries(settings) as parked:
            return await door(parked)

    async def at_fold() -> int:
        async with _events(settings) as (events, _):
            return await fold(events)

    return sum(run(work()) for work in _stages(found, stage, at_door, at_fold))


def _one_or_reason(name: str | None, reason: str | None) -> UUID | ReadPlace | str:
    if (name is None) == (reason is None):
        raise ConfigError("name one of `parked list`, or give --reason for all of them: not both, and not neither")
    return _named(name) if name is not None else str(reason)


def _named(name: str) -> UUID | ReadPlace:
    """Return the id of a delivery, or the place of an event."""
    found = parked_name(name)
    if found is None:
        what = "neither the id of a delivery nor the place of an event, as `parked list` shows them"
        raise ConfigError(f"{name}: {what}")
    return found


def _stages(found: UUID | ReadPlace | str, stage: ParkedAt | None, at_door: Work, at_fold: Work) -> list[Work]:
    """Return what is to be done for a name, or for a reason: at the door, at the fold, or both."""
    match found:
        case UUID():
            return [at_door]
        case ReadPlace():
            return [at_fold]
        case _:
            return [work for name, work in (("door", at_door), ("fold", at_fold)) if stage in (None, name)]


@asynccontextmanager
async def _deliveries(settings: Settings) -> AsyncIterator[Parked]:
    async with opened_log(settings) as log:
        yield Parked(log, privacy_key(settings))


@asynccontextmanager
async def _events(settings: Settings) -> AsyncIterator[tuple[ParkedEvents, Retry]]:
    async with opened_stores(settings) as stores:
        events = ParkedEvents(stores.projection)
        yield events, Retry(Projection(stores.projection), events, EventLog(stores.log))


async def _found(parked: Parked, parked_id: UUID) -> tuple[ParkedDelivery, bytes]:
    """Return one and its bytes; raise NotFoundError where it is not there."""
    found = await parked.show(parked_id)
    if found is None:
        raise _missing(parked_id)
    return found


def _there(done: T | None, found: UUID | ReadPlace) -> T:
    """Return what a verb did; raise NotFoundError where it did nothing because there was nothing."""
    if done is None:
        raise _missing(found)
    return done


def _missing(found: UUID | ReadPlace, state: str = "parked") -> NotFoundError:
    return NotFoundError(f"no {state} {'delivery' if isinstance(found, UUID) else 'event'} {found}")
