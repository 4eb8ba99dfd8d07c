"""`forget`: erase a person from everything that this service holds, and keep them erased."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say, say_json
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import ConfigError, TransientError
from whatsms_events.kafka.topics import SEGMENT_MS, check_topics
from whatsms_events.service.parts import kafka_target, privacy_key
from whatsms_events.service.stores import opened_stores
from whatsms_events.service.suppressions import keep_file
from whatsms_events.storage.database import Database
from whatsms_events.storage.scrubbing import is_small, scrub
from whatsms_events.workers.forgetting import Forgetfulness, Forgetting, ForgettingWaits

Seconds = Annotated[float, Parameter(validator=Number(gte=0, lte=3600))]

SCRUBS: Final = 25
"""So often a reader may be in the way; each time is waited for as long as a statement of its may take."""


def forget(
    *,
    tenant: str,
    contact: str,
    go: bool = False,
    rewrite: bool = False,
    wait: Seconds = 60.0,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Erase a person: blank all that log, tables, parked and backfills hold of them, now and when it comes late.

    Without --go nothing is changed: it says what would be touched, by table and count. With --go it may be stopped at
    any point and run again. What the person does afterwards is new, and is kept.

    Parameters
    ----------
    tenant
        The tenant's slug.
    contact
        The id of the person's contact, or their number. All contacts with that number are the same person.
    go
        Do it.
    rewrite
        Write a large log file of SQLite anew too, so that not even an unused part of a page holds a byte of the person.
        Deliveries wait meanwhile. A log of up to 256 MiB is always written anew.
    wait
        So many seconds the projection and the relay may take to catch up.
    json
        Print JSON.
    """
    settings = options.load()
    if tenant not in settings.tenants:
        raise ConfigError(f"--tenant: no tenant has the slug {tenant}")
    done = run(_forgotten(settings, settings.tenants[tenant].tenant_id, contact, go=go, rewrite=rewrite, wait_s=wait))
    if json:
        say_json(_plain(done))
    else:
        say(*_lines(done))
    return 0


async def _forgotten(
    settings: Settings, tenant_id: str, contact: str, *, go: bool, rewrite: bool, wait_s: float
) -> Forgetfulness:
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened_stores(settings))
        key, target = privacy_key(settings), kafka_target(settings)
        forgetting = Forgetting(
            stores.log,
            stores.projection,
            None if key is None else Marker(key),
            prefix=None if target is None else settings.kafka.topic_prefix,
            keeps_until=await _keeps_until(settings) if go else lambda _now: None,
            now=now,
            waits=ForgettingWaits(behind_s=wait_s),
            marked=lambda: keep_file(settings.privacy.suppressions_file, stores.log),
        )
        if not go:
            return await forgetting.preview(tenant_id, contact)
        await forgetting.checked_key()  # before all that may have to be waited for: no waiting mends a key
        await stack.enter_async_context(forgetting.alone)
        done = await forgetting.run(tenant_id, contact)
        await scrubbed(stores.log, rewrite=rewrite)
        await scrubbed(stores.projection, rewrite=True)
        return done


async def _keeps_until(settings: Settings) -> Callable[[datetime], datetime | None]:
    """Return what tells when the topics have forgotten what is published by now: they are asked how long they keep."""
    target = kafka_target(settings)
    if target is None:
        return lambda _now: None
    limit = settings.receiver.body_limit_bytes
    topics = await check_topics(target, settings.kafka.topic_prefix, body_limit_bytes=limit)
    keeps = [one.keeps_ms for one in topics.values()]
    if None in keeps:
        return lambda _now: None
    longest = timedelta(milliseconds=max(keep for keep in keeps if keep is not None) + SEGMENT_MS)
    return lambda at: at + longest


async def scrubbed(database: Database, *, rewrite: bool = True) -> None:
    """Let SQLite's files hold nothing of what was blanked; raise TransientError where readers are always in the way."""
    small = is_small(database)
    for _ in range(SCRUBS):
        if await scrub(database, rewrite=rewrite or small):
            return
    raise TransientError(
        f"everything is blanked, but somebody reads {database.path} all the time, so that older pages stay in its WAL; "
        "run this again"
    )


def _plain(done: Forgetfulness) -> dict[str, Any]:
    one = done.erasure
    return {
        "contact_ids": done.contact_ids,
        "tickets": done.tickets,
        "messages": done.messages,
        "rows": done.counts,
        "forgotten_at": None if one is None else one.forgotten_at,
        "event_id": None if one is None else one.event_id,
        "log_end": None if one is None else one.until,
        "kafka_until": None if one is None else one.kafka_until,
        "named_elsewhere": done.left,
        "parked_elsewhere": done.parked_left,
        "rows_elsewhere": done.rows_left,
        "unread": done.unread,
    }


def _lines(done: Forgetfulness) -> list[str]:
    one = done.erasure
    lines = [
        f"contacts {', '.join(done.contact_ids)}: {done.tickets} tickets, {done.messages} messages",
        *(f"{table:<18} {count} rows" for table, count in sorted(done.counts.items())),
    ]
    if one is None:
        return [*lines, "nothing was changed: give --go to erase this for good"]
    at = one.forgotten_at.isoformat(timespec="seconds")
    if not done.counts:
        return [f"contacts {', '.join(done.contact_ids)}: were forgotten at {at}, and nothing is held of them since"]
    lines.append(f"forgotten at {at}, in the log up to position {one.until}")
    if one.kafka_until is not None:
        lines.append(f"Kafka may hold older records until {one.kafka_until.isoformat(timespec='seconds')}")
    if done.left:
        places = ", ".join(map(str, done.left))
        lines.append(f"other people's events show a value that was blanked, such as a text they wrote too: {places}")
    if done.parked_left:
        places = ", ".join(map(str, done.parked_left))
        lines.append(
            f"parked deliveries that name somebody else, or nobody, show such a value, so look yourself: {places}"
        )
    if done.rows_left:
        lines.append(f"other people's rows show such a value: {', '.join(done.rows_left)}")
    if done.unread:
        lines.append(f"parked in a form that is not read here, so look yourself: {', '.join(map(str, done.unread))}")
    lines.append("backups, other copies, and what consumers keep are yours to erase: see docs/privacy.md")
    return lines
