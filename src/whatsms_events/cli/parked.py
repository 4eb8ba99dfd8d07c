"""`parked list`, `show`, `retry` and `discard`: what a person does about deliveries that were not understood."""

import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated
from uuid import UUID

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import Event
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import InvalidEventError, NotFoundError
from whatsms_events.service.parts import opened_log
from whatsms_events.storage.log.parked import PAGE_LIMIT, Parked, ParkedDelivery, Taken

Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=PAGE_LIMIT))]


def list_(*, limit: Limit = 50, options: SettingsOptions = DEFAULTS) -> int:
    """List parked deliveries, oldest first: id, when, tenant, reason, detail, how often, bytes.

    The tenant is its slug, or the tenant id where the configuration has no such tenant any more.

    Parameters
    ----------
    limit
        How many at most, 500 or fewer.
    """
    settings = options.load()

    async def listed() -> list[ParkedDelivery]:
        async with _parked(settings) as parked:
            return await parked.list(None, limit)

    slugs = {tenant.tenant_id: slug for slug, tenant in settings.tenants.items()}
    for one in run(listed()):
        print(_line(one, slugs.get(one.tenant, one.tenant)))
    return 0


def _line(one: ParkedDelivery, tenant: str) -> str:
    when = one.received_at.isoformat(timespec="seconds")
    return f"{one.id}  {when}  {tenant}  {one.reason} {one.detail}  x{one.count}  {one.size_bytes} bytes".rstrip()


def show_(parked_id: UUID, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Write the bytes of one parked delivery to standard output, as they came.

    Parameters
    ----------
    parked_id
        As `parked list` shows it.
    """
    settings = options.load()

    async def shown() -> bytes:
        async with _parked(settings) as parked:
            return (await _found(parked, parked_id))[1]

    sys.stdout.buffer.write(run(shown()))
    return 0


def retry_(parked_id: UUID, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Read one again with this release, and append it at the end of the log if it is understood now.

    Parameters
    ----------
    parked_id
        As `parked list` shows it.
    """
    settings = options.load()

    async def retried() -> Taken:
        async with _parked(settings) as parked:
            return await _retried(parked, parked_id, [tenant.tenant_id for tenant in settings.tenants.values()])

    taken = run(retried())
    print(f"{'was in the log already' if taken.duplicate else 'appended'} at position {taken.position}")
    return 0


async def _retried(parked: Parked, parked_id: UUID, tenants: Sequence[str]) -> Taken:
    """Append the event that this release makes of the delivery, or raise InvalidEventError, and it stays parked."""
    one, raw = await _found(parked, parked_id)
    try:
        event = _read(one, raw, tenants)
    except InvalidEventError as exc:
        raise InvalidEventError(exc.reason, f"{exc.detail} (it stays parked)".strip()) from exc
    taken = await parked.take(parked_id, Append(event=event, raw=raw, sha256=hashlib.sha256(raw).digest()))
    if taken is None:
        raise _missing(parked_id)
    return taken


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


def discard_(parked_id: UUID, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Remove one parked delivery for ever.

    Parameters
    ----------
    parked_id
        As `parked list` shows it.
    """
    settings = options.load()

    async def discarded() -> bool:
        async with _parked(settings) as parked:
            return await parked.discard(parked_id)

    if not run(discarded()):
        raise _missing(parked_id)
    print("discarded")
    return 0


@asynccontextmanager
async def _parked(settings: Settings) -> AsyncIterator[Parked]:
    async with opened_log(settings) as log:
        yield Parked(log)


async def _found(parked: Parked, parked_id: UUID) -> tuple[ParkedDelivery, bytes]:
    """Return one and its bytes; raise NotFoundError where it is not there."""
    found = await parked.show(parked_id)
    if found is None:
        raise _missing(parked_id)
    return found


def _missing(parked_id: UUID) -> NotFoundError:
    return NotFoundError(f"no parked delivery {parked_id}")
