"""Run the service and an offline WhatSMS in one process, show both while they talk over HTTP, and prove the end.

The twin drops some webhooks on purpose. While it sends, the service compares now and then, so that its console has
something to show. When the sending has stopped, a last reconcile reads the twin's REST API and repairs what is left.

The proof does not rest on the service's own word. After the service has stopped both files are opened anew: the rows of
the log are compared by hash with the twin's ledger of all that got a 2xx, the rows of the projection with its account.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live

from whatsms_events.cli.demo import view
from whatsms_events.cli.demo.repair import Repair
from whatsms_events.cli.demo.settings import REQUESTS_PER_MINUTE, SLUG, while_sending
from whatsms_events.cli.demo.truth import differing
from whatsms_events.cli.demo.view import Summary
from whatsms_events.clock import now, within
from whatsms_events.config.settings import Settings, Whatsms
from whatsms_events.kafka.topics import create_topics
from whatsms_events.service.doors import Addresses
from whatsms_events.service.parts import kafka_target
from whatsms_events.service.roles import ROLES
from whatsms_events.service.service import Service
from whatsms_events.service.stores import Stores, opened_stores
from whatsms_events.storage import audit
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.repair.requests import Requests
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.twin.account import Account
from whatsms_events.twin.faults import Demand, Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import API_KEY, Rest, RestServer
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

CATCH_UP_S: Final = 60.0
VIEW_S: Final = 0.5
PLAIN_VIEW_S: Final = 5.0
BURST_S: Final = 8.0
"""How often the twin misbehaves on purpose: some wrong signatures, some signed garbage."""

COMPARE_S: Final = 25.0
"""How often the service is asked to compare while the twin sends; a real one does it once a day."""

DROPPED: Final = 0.02
"""The share of webhooks that the twin never sends."""


@dataclass(frozen=True, slots=True)
class Sending:
    """For how many seconds the twin sends, None until it is stopped; how many webhooks a second, by which seed.

    `compare_s` is how often the service compares meanwhile.
    """

    seconds: float | None
    rate: float
    seed: int
    compare_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts of a run: the twin's world, its REST API and that URL, the ledger of what it sent, and the repair."""

    world: World
    rest: Rest
    api_url: str
    ledger: Ledger
    repair: Repair


async def run(
    settings: Settings, stop: asyncio.Event, *, seconds: float | None, rate: float, seed: int, as_json: bool
) -> bool:
    """Run until `stop` or `seconds`, repair, print the summary; return whether it proved what it is to prove.

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
    began = asyncio.get_running_loop().time()
    stage = await play(settings, stop, seconds=seconds, rate=rate, seed=seed)
    took_s = asyncio.get_running_loop().time() - began
    summary = await summarize(settings, stage, took_s, kafka=target is not None)
    if as_json:
        sys.stdout.write(msgspec.json.encode(asdict(summary)).decode() + "\n")
    else:
        view.print_summary(Console(), summary)
    return summary.ok


def usual_rest(account: Account) -> Rest:
    """Return the REST half of the demo's twin."""
    return Rest(account, limits=RestLimits(requests=REQUESTS_PER_MINUTE))


async def play(
    settings: Settings,
    stop: asyncio.Event,
    *,
    seconds: float | None,
    rate: float,
    seed: int,
    make_rest: Callable[[Account], Rest] = usual_rest,
    compare_s: float = COMPARE_S,
) -> Stage:
    """Run service and twin until `stop` or `seconds`, then the repair; return what there is to compare.

    A `stop` that comes later ends the repair. `compare_s`: how often the service compares before that.
    """
    world = World(seed, start=now(), tenant_id=settings.tenants[SLUG].tenant_id, pace=rate)
    rest = make_rest(world.account)
    async with RestServer(rest) as server:
        whatsms = Whatsms(base_url=server.url, requests_per_minute=REQUESTS_PER_MINUTE)
        settings = settings.model_copy(update={"whatsms": whatsms})
        stage = Stage(world, rest, server.url, Ledger(), Repair(settings, SLUG))
        sending = Sending(seconds, rate, seed, compare_s)
        await _run_both(settings, stage, stop, Console(stderr=True), sending)
    return stage


async def _run_both(
    settings: Settings,
    stage: Stage,
    stop: asyncio.Event,
    console: Console,
    sending: Sending,
) -> None:
    """Run the service, and the twin against it; repair, and stop the service once everything is applied."""
    service_stop = asyncio.Event()
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    service = Service(while_sending(settings), frozenset(ROLES))
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(service.run(service_stop, on_ready=ready.set_result))
        addresses = await ready  # where the service cannot start, the task group cancels this
        _introduce(console, settings, addresses, stage.api_url)
        secret = settings.tenants[SLUG].webhook_secrets["current"].get_secret_value().encode()
        faults = Faults(seed=sending.seed, redeliver=0.04, reorder=0.05, delay=0.02, drop=DROPPED)
        sender = Sender(f"{addresses.public}/webhooks/{SLUG}", secret, stage.ledger, faults=faults, rate=sending.rate)
        async with opened_stores(settings) as stores, asyncio.TaskGroup() as beside:
            over = asyncio.Event()
            beside.create_task(_view(console, stage, stores, over))
            sending_over = asyncio.Event()
            beside.create_task(_misbehave(sender, sending_over))
            beside.create_task(_compare(settings, stores, sending_over, sending.compare_s))
            await sender.run(stage.world, stop, seconds=sending.seconds)
            sending_over.set()
            await _caught_up(stores, serving)
            if not serving.done():
                console.print("        the sending has stopped: a reconcile reads the twin's REST API", soft_wrap=True)
                await _end_comparing(settings, stores)
                await _repair(stage, stores, stop)
                await _caught_up(stores, serving)
            over.set()
        service_stop.set()


def _introduce(console: Console, settings: Settings, addresses: Addresses, api_url: str) -> None:
    """Say where everything is."""
    lines = {
        "webhooks": f"{addresses.public}/webhooks/{SLUG}",
        "console": f"{addresses.private}/    (for a browser)",
        "read API": f"{addresses.private}/api/v1/{SLUG}/tickets",
        "metrics": f"{addresses.private}/metrics    ready {addresses.private}/readyz",
        "REST API": f"{api_url}/tickets    key {API_KEY}    (the twin's)",
        "files": f"{settings.data_dir}    log lines {settings.data_dir / 'service.log'}\n",
    }
    for name, words in lines.items():
        console.print(f"{name:10} {words}", soft_wrap=True)


async def _repair(stage: Stage, stores: Stores, stop: asyncio.Event) -> None:
    """Reconcile while the account's clock goes on, although nothing happens there any more."""
    account = stage.world.account
    # Answers show whole seconds, so the clock goes two ahead: then all that was announced is older than any answer.
    ahead = account.now - now() + timedelta(seconds=2)

    def tick() -> None:
        account.now = now() + ahead

    stage.rest.on_request = tick
    # A Ctrl-C that ended the sending does not end the repair too.
    await stage.repair.run(stores, asyncio.Event() if stop.is_set() else stop)


async def _misbehave(sender: Sender, over: asyncio.Event) -> None:
    """Now and then: wrong signatures (401), and signed garbage (parked)."""
    while not over.is_set():
        sender.demand(Demand.WRONG_SECRET, 5)
        sender.demand(Demand.GARBAGE, 2)
        await within(over, BURST_S)


async def _compare(settings: Settings, stores: Stores, over: asyncio.Event, every_s: float) -> None:
    """Ask for a reconcile by the service's own backfill, now and then."""
    tenant, requests = settings.tenants[SLUG].tenant_id, Requests(stores.log)
    while not await within(over, every_s):
        await requests.ask(tenant, "demo", now())


async def _end_comparing(settings: Settings, stores: Stores) -> None:
    """End a run of the service's own: it may have read before the last webhook was dropped, and has the role."""
    tenant, requests = settings.tenants[SLUG].tenant_id, Requests(stores.log)
    if (waiting := await requests.waiting(tenant)) is not None:
        await requests.remove(waiting)
    await Checkpoints(stores.log).stop(tenant, "the demo", now())


async def _caught_up(stores: Stores, serving: asyncio.Task[None]) -> None:
    """Wait until the projection shows the whole log, at most CATCH_UP_S."""
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while not serving.done():
                if (await Projection(stores.projection).state()).applied_through >= await EventLog(stores.log).end():
                    return
                await within(asyncio.Event(), 0.05)
    except TimeoutError:
        return


async def _view(console: Console, stage: Stage, stores: Stores, over: asyncio.Event) -> None:
    """Show what is going on: a table on a terminal, a line now and then elsewhere, and one of the repair's end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            end = await EventLog(stores.log).end()
            lag = end - (await Projection(stores.projection).state()).applied_through
            shown = (stage.ledger, end, lag, max(loop.time() - began, 0.001), stage.repair.progress)
            if console.is_terminal:
                live.update(view.table(*shown), refresh=True)
            else:
                console.print(view.line(*shown), soft_wrap=True)
            if over.is_set():
                return
            await within(over, VIEW_S if console.is_terminal else PLAIN_VIEW_S)


async def summarize(settings: Settings, stage: Stage, took_s: float, *, kafka: bool) -> Summary:
    """Compare ledger and account with the files, opened anew. Raises what opening them raises."""
    ledger = stage.ledger
    async with opened_stores(settings) as stores:
        events, parked = Counter(await audit.hashes(stores.log)), Counter(await audit.parked_hashes(stores.log))
        observed, end = await audit.observed(stores.log), await EventLog(stores.log).end()
        state, totals = await Projection(stores.projection).state(), await audit.totals(stores.projection)
        different = await differing(stage.world.account, stores.projection)
    expected = Counter(ledger.accepted) + Counter(ledger.parked)
    # A delivery that never got an answer may be in the log or not: nothing was promised.
    missing = expected - (events + parked)
    unexpected = (events + parked) - expected - Counter(ledger.given_up)
    outcomes = ledger.by_outcome
    return Summary(
        # If everything that was sent was refused, nothing is proved.
        ok=not missing
        and not unexpected
        and state.applied_through == end
        and bool(outcomes["accepted"] or not ledger.sent)
        and stage.repair.finished
        and not different.total(),
        seconds=round(took_s, 1),
        sent=ledger.sent,
        accepted=outcomes["accepted"],
        duplicates=outcomes["duplicate"],
        rejected=outcomes["rejected"],
        parked=outcomes["parked"],
        dropped=outcomes["dropped"],
        log_events=events.total() + observed,
        observed=observed,
        applied=state.applied,
        **asdict(totals),
        missing=missing.total(),
        unexpected=unexpected.total(),
        repaired=sum(sum(kinds.values()) for kinds in stage.repair.drift.values()),
        drift=stage.repair.drift,
        differing=different.total(),
        trouble=stage.repair.trouble,
        kafka=kafka,
    )
