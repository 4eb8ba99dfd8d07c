"""`twin`: a WhatSMS that runs offline, sends its webhooks and serves its REST API until Ctrl-C."""

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from whatsms_events.cli.running import run, stop_on_signals
from whatsms_events.clock import now, within
from whatsms_events.errors import ConfigError
from whatsms_events.twin.control import PATH, Control
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.faults import RestFaults
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import API_KEY, Rest, RestServer
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

SECRET_VARIABLE: Final = "WHATSMS_TWIN_SECRET"  # noqa: S105 - a name, not a secret
DEFAULT_SECRET: Final = "whsec_test_twin"  # noqa: S105 - for tests, and printed
LINE_S: Final = 5.0
DRAIN_S: Final = 5.0
"""How long a twin that is told to end waits for the deliveries that are under way."""


API_FAULTS: Final = tuple(field.name for field in fields(RestFaults) if field.name != "seed")


def _share(text: str) -> Parameter:
    return Parameter(help=text, validator=Number(gte=0, lte=1))


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Twin:
    """What the twin is and does."""

    target: Annotated[
        str | None, Parameter(help="URL that gets the webhooks; without it they are made and counted, not sent.")
    ] = None
    secret_file: Annotated[
        Path | None, Parameter(help=f"File with the webhook secret; else {SECRET_VARIABLE}, else one for tests.")
    ] = None
    host: Annotated[str, Parameter(help="Address that the API listens on.")] = "127.0.0.1"
    port: Annotated[int, Parameter(help="Its port; 0 takes a free one.", validator=Number(gte=0, lte=65535))] = 8090
    api_key: Annotated[str, Parameter(help="The key that the API wants.")] = API_KEY
    tenant_id: Annotated[str, Parameter(help="The `tenantId` in each webhook.")] = "twin"
    seed: Annotated[int, Parameter(help="Of people and faults; the same seed tells the same story.")] = 1
    rate: Annotated[float, Parameter(help="Webhooks a second, about.", validator=Number(gt=0, lte=1000))] = 5.0
    dialect: Annotated[str, Parameter(help=f"How it speaks: {', '.join(DIALECTS)}.")] = "documented"
    past: Annotated[
        float,
        Parameter(
            help="Seconds that the account existed before; nobody got those webhooks.",
            validator=Number(gte=0, lte=30 * 86400),
        ),
    ] = 0.0
    seconds: Annotated[
        float | None, Parameter(help="Stop after so many; without it, on Ctrl-C.", validator=Number(gt=0))
    ] = None
    paused: Annotated[bool, Parameter(help="Let nothing happen but what comes through the API.")] = False
    drop: Annotated[float, _share("Share of webhooks that are never sent.")] = 0.0
    redeliver: Annotated[float, _share("Share of webhooks that are sent again.")] = 0.0
    reorder: Annotated[float, _share("Share of webhooks that are held back behind later ones.")] = 0.0
    delay: Annotated[float, _share("Share of webhooks that are sent up to a second late.")] = 0.0
    api_fault: Annotated[
        tuple[str, ...],
        Parameter(
            help="A fault of the API by its share of requests, as in --api-fault html_502=0.1; as often as needed. "
            f"There are {', '.join(API_FAULTS)}.",
            show_default=False,
        ),
    ] = ()
    requests_per_minute: Annotated[
        int, Parameter(help="Requests that the API answers in any minute.", validator=Number(gte=1))
    ] = RestLimits().requests


DEFAULTS: Final = Twin()


def run_twin(*, twin: Twin = DEFAULTS) -> int:
    """Run a WhatSMS offline, to test consumers with: its webhooks, its REST API, and faults of both on demand."""
    if twin.dialect not in DIALECTS:
        raise ConfigError(f"--dialect {twin.dialect}: unknown; there are {', '.join(DIALECTS)}")
    if twin.target is not None:
        _check(twin.target)
    faults = _rest_faults(twin)
    secret, source = _secret(twin)

    async def main() -> None:
        await _run(twin, faults, secret, source, stop_on_signals())

    run(main())
    return 0


def _check(target: str) -> None:
    """Raise ConfigError where webhooks cannot be sent to this URL."""
    try:
        parts = urlsplit(target)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError("--target: has to be a URL such as http://127.0.0.1:8080/webhooks/acme")


def _secret(twin: Twin) -> tuple[bytes, str]:
    """Return the webhook secret, and where it comes from in words."""
    if twin.secret_file is not None:
        try:
            secret = twin.secret_file.read_bytes().strip()
        except OSError as exc:
            raise ConfigError(f"--secret-file {twin.secret_file}: {(exc.strerror or '').lower()}") from exc
        if not secret:
            raise ConfigError(f"--secret-file {twin.secret_file}: is empty")
        return secret, f"from {twin.secret_file}"
    if given := os.environ.get(SECRET_VARIABLE, "").strip():
        return given.encode(), f"from {SECRET_VARIABLE}"
    return DEFAULT_SECRET.encode(), f"{DEFAULT_SECRET} (for tests; or --secret-file, or {SECRET_VARIABLE})"


async def _run(twin: Twin, rest_faults: RestFaults, secret: bytes, source: str, stop: asyncio.Event) -> None:
    """Serve and send until `stop`."""
    world = _world(twin)
    limits = RestLimits(requests=twin.requests_per_minute)
    rest = Rest(world.account, api_key=twin.api_key, limits=limits, faults=rest_faults)
    faults = Faults(seed=twin.seed, drop=twin.drop, redeliver=twin.redeliver, reorder=twin.reorder, delay=twin.delay)
    sender = Sender(twin.target, secret, Ledger(counts_only=True), faults=faults, drain_s=DRAIN_S)
    control = Control(world, rest, sender)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    began = asyncio.get_running_loop().time()
    async with AsyncExitStack() as open_ones:
        try:
            server = await open_ones.enter_async_context(
                RestServer(rest, twin.host, twin.port, beside=control.routes())
            )
        except OSError as exc:
            says = os.strerror(exc.errno).lower() if exc.errno and exc.errno > 0 else "no such address"
            text = f"cannot listen on {twin.host}:{twin.port}: {says}; see --host and --port"
            raise OSError(exc.errno, text) from exc
        _introduce(console, twin, server, source)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_tell(console, control, over))
            tasks.create_task(_stop_later(stop, twin.seconds))
            await sender.run(world, stop, clock=now)
            over.set()
    took_s = asyncio.get_running_loop().time() - began
    _sum_up(console, control, took_s)


def _world(twin: Twin) -> World:
    """Return the world as it is now; nobody got the webhooks of its past."""
    began = now()
    world = World(
        twin.seed,
        start=began - timedelta(seconds=twin.past),
        tenant_id=twin.tenant_id,
        dialect=DIALECTS[twin.dialect],
        pace=twin.rate,
    )
    if twin.past:
        world.advance(began)
    if twin.paused:
        world.pause()
    return world


def _rest_faults(twin: Twin) -> RestFaults:
    """Return what befalls requests; raise ConfigError where a fault is unknown or its value out of range."""
    faults = RestFaults(seed=twin.seed)
    for given in twin.api_fault:
        name, equals, value = given.partition("=")
        if name not in API_FAULTS:
            raise ConfigError(f"--api-fault {name}: unknown; there are {', '.join(API_FAULTS)}")
        if not equals:
            raise ConfigError(f"--api-fault {name}: write it as NAME=VALUE")
        try:
            faults = msgspec.convert(asdict(faults) | {name: value}, RestFaults, strict=False)
        except msgspec.ValidationError as exc:
            raise ConfigError(f"--api-fault {given}: {str(exc).partition(' - at ')[0].lower()}") from exc
    return faults


def _introduce(console: Console, twin: Twin, server: RestServer, source: str) -> None:
    """Say where everything is."""
    console.print(f"a WhatSMS offline: seed {twin.seed}, dialect {twin.dialect}, {twin.rate:g} webhooks a second")
    console.print(f"API        {server.url}")
    console.print(f"API key    {twin.api_key}")
    console.print(f"webhooks   {f'to {twin.target}' if twin.target else 'made and counted, not sent; see --target'}")
    console.print(f"secret     {source}")
    console.print(f"tenantId   {twin.tenant_id}")
    console.print(f"control    {server.origin}{PATH}\n")


async def _tell(console: Console, control: Control, over: asyncio.Event) -> None:
    """Print a line now and then."""
    while not over.is_set():
        console.print(_line(control))
        await within(over, LINE_S)


async def _stop_later(stop: asyncio.Event, seconds: float | None) -> None:
    if seconds is not None:
        await within(stop, seconds)
        stop.set()


def _line(control: Control) -> str:
    state = control.state()
    webhooks, outcomes, entities = state["webhooks"], state["webhooks"]["outcomes"], state["entities"]
    told = [
        f"{name} {outcomes[name]}" for name in ("accepted", "duplicate", "rejected", "dropped") if outcomes.get(name)
    ]
    requests = sum(state["api"]["requests"].values())
    return "  ".join(
        [
            now().strftime("%H:%M:%S") + (" paused" if state["paused"] else ""),
            f"webhooks {webhooks['made']}",
            *told,
            f"requests {requests}",
            f"tickets {entities['tickets']}",
            f"messages {entities['messages']}",
        ]
    )


def _sum_up(console: Console, control: Control, took_s: float) -> None:
    """Print what became of the webhooks, and what was asked for how often."""
    state = control.state()
    console.print(
        f"\n{took_s:.0f} s; {state['webhooks']['made']} webhooks made, {state['webhooks']['sent']} POSTs sent"
    )
    for title, counts in (
        ("webhooks", state["webhooks"]["outcomes"]),
        ("requests", state["api"]["requests"]),
        ("answers", state["api"]["statuses"]),
        ("account", state["entities"]),
    ):
        console.print(f"{title:10} {'  '.join(f'{name} {count}' for name, count in counts.items()) or 'none'}")
