"""The service and a WhatSMS that runs offline, in one process, talking over real HTTP; a live view, then the proof.

The proof is not the service's own word: the twin's ledger of what got a 2xx is compared by hash with the rows of the
log, read afresh from its file after the service has stopped.
"""

import asyncio
import fcntl
import secrets
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live

from whatsms_events.cli import view
from whatsms_events.cli.view import Summary
from whatsms_events.errors import ConfigError
from whatsms_events.serve import Addresses, Service, kafka_target, log_target, now, projection_target
from whatsms_events.settings import DatabaseSettings, Settings, Tenant
from whatsms_events.storage import audit
from whatsms_events.storage.database import Database, open_log, open_projection
from whatsms_events.storage.event_log import EventLog
from whatsms_events.storage.projection import Projection
from whatsms_events.twin.faults import Demand, Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World
from whatsms_events.workers.kafka_topics import create_topics

SLUG: Final = "demo"
CATCH_UP_S: Final = 60.0
VIEW_S: Final = 0.5
PLAIN_VIEW_S: Final = 5.0
BURST_S: Final = 8.0
"""How often the twin misbehaves on purpose: some wrong signatures, some signed garbage."""


@contextmanager
def prepared(settings: Settings) -> Iterator[Settings]:
    """Give settings for one run: fresh SQLite files, loopback, one tenant with a secret of its own.

    Raises ConfigError where there is no room for the files, or where another demo uses them.
    """
    folder = settings.data_dir / "demo"
    lock = folder / "demo.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not lock.exists():
            raise ConfigError(f"data_dir: {folder} holds something that is not the demo's, choose another data_dir")
        file = lock.open("w")
    except OSError as exc:
        raise ConfigError(f"data_dir: cannot make the folder {folder}: {(exc.strerror or '').lower()}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"data_dir: another demo runs in {folder}, give this one --set data_dir=FOLDER") from None
        for path in folder.iterdir():
            if path != lock:
                path.unlink()
        yield _demo_settings(settings, folder)


def _demo_settings(settings: Settings, folder: Path) -> Settings:
    tenant = Tenant.model_validate(
        {"tenant_id": f"demo-{secrets.token_hex(4)}", "webhook_secrets": {"current": secrets.token_hex(32)}}
    )
    # One topic prefix belongs to one log, and this log is new.
    prefix = f"{settings.kafka.topic_prefix}-demo-{secrets.token_hex(4)}"
    return settings.model_copy(
        update={
            "data_dir": folder,
            "database": DatabaseSettings(),
            "kafka": settings.kafka.model_copy(update={"topic_prefix": prefix}),
            "public": settings.public.model_copy(update={"host": "127.0.0.1", "port": _free(settings.public.port)}),
            "private": settings.private.model_copy(update={"host": "127.0.0.1", "port": _free(settings.private.port)}),
            "tenants": {SLUG: tenant},
        }
    )


def _free(port: int) -> int:
    """Return the port if nobody listens there, else 0, which lets the system choose."""
    with socket.socket() as probe:
        return 0 if probe.connect_ex(("127.0.0.1", port)) == 0 else port


async def run(
    settings: Settings, stop: asyncio.Event, *, seconds: float | None, rate: float, seed: int, as_json: bool
) -> bool:
    """Run until `stop` or `seconds`; print the summary; return whether everything accepted is in the log and applied.

    `settings` come from `prepared`. Raises what the service raises when it cannot start.
    """
    target = kafka_target(settings)
    if target is not None:
        kafka = settings.kafka
        await create_topics(
            target,
            kafka.topic_prefix,
            partitions=kafka.partitions,
            replication_factor=kafka.replication_factor,
            retention_ms=kafka.retention_ms,
        )
    console = Console(stderr=True)
    began = asyncio.get_running_loop().time()
    ledger = await _run_both(settings, stop, console, seconds=seconds, rate=rate, seed=seed)
    took_s = asyncio.get_running_loop().time() - began
    summary = await summarize(settings, ledger, took_s, kafka=target is not None)
    if as_json:
        sys.stdout.write(msgspec.json.encode(asdict(summary)).decode() + "\n")
    else:
        view.print_summary(Console(), summary)
    return summary.ok


async def _run_both(
    settings: Settings, stop: asyncio.Event, console: Console, *, seconds: float | None, rate: float, seed: int
) -> Ledger:
    """Run the service, and the twin against it; stop the service once everything is applied."""
    service_stop = asyncio.Event()
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(Service(settings).run(service_stop, on_ready=ready.set_result))
        addresses = await ready  # where the service cannot start, the task group cancels this
        console.print(f"webhooks   {addresses.public}/webhooks/{SLUG}")
        console.print(f"read API   {addresses.private}/api/v1/{SLUG}/tickets")
        console.print(f"metrics    {addresses.private}/metrics    ready {addresses.private}/readyz")
        console.print(f"files      {settings.data_dir}    log lines {settings.data_dir / 'service.log'}\n")
        tenant = settings.tenants[SLUG]
        world = World(seed, start=now(), tenant_id=tenant.tenant_id, pace=rate)
        faults = Faults(seed=seed, redeliver=0.04, reorder=0.05, delay=0.02)
        with Ledger() as ledger:
            sender = Sender(
                f"{addresses.public}/webhooks/{SLUG}",
                tenant.webhook_secrets["current"].get_secret_value().encode(),
                ledger,
                faults=faults,
                rate=rate,
            )
            async with _databases(settings) as (log, projection), asyncio.TaskGroup() as beside:
                over = asyncio.Event()
                beside.create_task(_view(console, ledger, log, projection, over))
                beside.create_task(_misbehave(sender, over))
                await sender.run(world, stop, seconds=seconds)
                await _caught_up(log, projection, serving)
                over.set()
        service_stop.set()
    return ledger


@asynccontextmanager
async def _databases(settings: Settings) -> AsyncIterator[tuple[Database, Database]]:
    """Open log and projection beside the service, as any other reader would."""
    log = await open_log(log_target(settings), migrate=False)
    try:
        projection = await open_projection(projection_target(settings), migrate=False)
        try:
            yield log, projection
        finally:
            await projection.close()
    finally:
        await log.close()


async def _misbehave(sender: Sender, over: asyncio.Event) -> None:
    """Now and then: wrong signatures (401), and signed garbage (parked)."""
    while not over.is_set():
        sender.demand(Demand.WRONG_SECRET, 5)
        sender.demand(Demand.GARBAGE, 2)
        await _within(over, BURST_S)


async def _caught_up(log: Database, projection: Database, serving: asyncio.Task[bool]) -> None:
    """Wait until the projection shows the whole log, at most CATCH_UP_S."""
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while not serving.done():
                if (await Projection(projection).state()).applied_through >= await EventLog(log).end():
                    return
                await _within(asyncio.Event(), 0.05)
    except TimeoutError:
        return


async def _view(console: Console, ledger: Ledger, log: Database, projection: Database, over: asyncio.Event) -> None:
    """Show what is going on: a table on a terminal, a line now and then elsewhere."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not over.is_set():
            end = await EventLog(log).end()
            lag = end - (await Projection(projection).state()).applied_through
            took_s = max(loop.time() - began, 0.001)
            if console.is_terminal:
                live.update(view.table(ledger, end, lag, took_s), refresh=True)
            else:
                console.print(view.line(ledger, end, lag, took_s), soft_wrap=True)
            await _within(over, VIEW_S if console.is_terminal else PLAIN_VIEW_S)


async def summarize(settings: Settings, ledger: Ledger, took_s: float, *, kafka: bool) -> Summary:
    """Compare the ledger with the files, opened anew. Raises what opening them raises."""
    async with _databases(settings) as (log, projection):
        events, parked = Counter(await audit.hashes(log)), Counter(await audit.parked_hashes(log))
        state, totals, end = (
            await Projection(projection).state(),
            await audit.totals(projection),
            await EventLog(log).end(),
        )
    expected = Counter(ledger.accepted) + Counter(ledger.parked)
    # What never got its answer may be there or not: it was promised to nobody.
    unanswered = Counter(ledger.given_up)
    missing = expected - (events + parked)
    unexpected = (events + parked) - expected - unanswered
    outcomes = ledger.by_outcome
    return Summary(
        # Where all that was sent was refused, nothing was proved.
        ok=not missing
        and not unexpected
        and state.applied_through == end
        and bool(outcomes["accepted"] or not ledger.sent),
        seconds=round(took_s, 1),
        sent=ledger.sent,
        accepted=outcomes["accepted"],
        duplicates=outcomes["duplicate"],
        rejected=outcomes["rejected"],
        parked=outcomes["parked"],
        log_events=events.total(),
        applied=state.applied,
        **asdict(totals),
        missing=missing.total(),
        unexpected=unexpected.total(),
        kafka=kafka,
    )


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
