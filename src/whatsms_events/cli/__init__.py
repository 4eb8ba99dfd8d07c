"""Words on the command line in, an exit status out: 0 done, 1 failed, 2 the configuration or the call is wrong."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import structlog
from cyclopts import App, Parameter
from cyclopts.validators import Number

from whatsms_events import __version__, logs
from whatsms_events.config import NO_TENANTS, Settings, advice, load, render
from whatsms_events.errors import ConfigError, StorageUnavailableError, WhatsmsEventsError

app: Final = App(
    name="whatsms-events",
    version=__version__,
    # A switch has one spelling: no --no-json beside --json, no --empty-set beside --set.
    default_parameter=Parameter(negative=()),
    help="Take WhatSMS webhooks, keep them in a durable log, publish them to Kafka, and project them for queries.",
)
config_app: Final = App(name="config", help="Look at the configuration.")
db_app: Final = App(name="db", help="Look after the database.")
topics_app: Final = App(name="topics", help="Look after the Kafka topics.")
parked_app: Final = App(name="parked", help="See to deliveries that were signed but could not be understood.")
backfill_app: Final = App(name="backfill", help="Find and repair what the webhook missed.")
for _sub in (config_app, db_app, topics_app, parked_app, backfill_app):
    app.command(_sub)
for _name, _help in {
    "list": "List parked deliveries, oldest first: id, when, tenant, reason, detail, how often, bytes.",
    "show": "Write the bytes of one parked delivery to standard output, as they came.",
    "retry": "Read one again with this release, and append it at the end of the log if it is understood now.",
    "discard": "Remove one parked delivery for ever.",
}.items():
    # By name, since the module is heavy: it is imported when it is asked for.
    parked_app.command(f"whatsms_events.cli.parked:{_name}_", name=_name, help=_help)
for _name, _help in {
    "run": "Compare everything with the vendor's REST API now, repair what differs, and say what it was.",
    "status": "Say how the last backfills went and how far the one is that has not finished; asks the database alone.",
}.items():
    backfill_app.command(f"whatsms_events.cli.backfill:{_name}_", name=_name, help=_help)
_help = "Run a WhatSMS that lives offline: signed webhooks and the REST API, with faults on demand."
app.command("whatsms_events.cli.twin:run_twin", name="twin", help=_help)

log = structlog.get_logger()
T = TypeVar("T")
Positive = Annotated[float, Parameter(validator=Number(gt=0))]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes."""

    config: Annotated[Path | None, Parameter(help="TOML file; also WHATSMS_EVENTS_CONFIG.")] = None
    secrets_dir: Annotated[Path | None, Parameter(help="Folder of secret files; also WHATSMS_EVENTS_SECRETS_DIR.")] = (
        None
    )
    set: Annotated[
        tuple[str, ...],
        Parameter(help="A setting over all others, as in --set public.port=9000.", show_default=False),
    ] = ()

    def load(self) -> Settings:
        """Return the settings; raise ConfigError with every problem."""
        flags: dict[str, object] = {}
        for given in self.set:
            name, equals, value = given.partition("=")
            if not equals:
                raise ConfigError(f"--set {name}: write it as NAME=VALUE")
            flags[name] = value
        return load(self.config, environ=os.environ, secrets_dir=self.secrets_dir, flags=flags)


DEFAULTS: Final = Options()


@app.command
def serve(*, roles: str = "receiver,relay,consumer,backfill", options: Options = DEFAULTS) -> int:
    """Run the service until SIGTERM or SIGINT. SIGHUP lets roles that have halted look at once whether they can go on.

    Parameters
    ----------
    roles
        Which of receiver, relay, consumer and backfill this process has, with commas. The relay needs a Kafka, a
        backfill an API key.
    """
    settings = options.load()
    from whatsms_events.serve import ROLES, Addresses, Service  # noqa: PLC0415 - heavy: mistakes are said first

    logs.configure(settings.logs.level)
    wanted = frozenset(role for role in ROLES if role in [name.strip() for name in roles.split(",")])
    unknown = [name for name in roles.split(",") if name.strip() not in ROLES]
    if unknown:
        raise ConfigError(f"--roles: unknown {', '.join(unknown)}; there are {', '.join(ROLES)}")
    service = Service(settings, wanted)

    def on_ready(addresses: Addresses) -> None:
        log.info("service.ready", public=addresses.public, private=addresses.private, roles=sorted(service.roles))

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.look_again)
        await service.run(_stop_on_signals(), on_ready=on_ready)

    with _addressed(settings):
        run(main())
    return 0


@app.command(name="demo")
def run_demo(
    *,
    seconds: Positive | None = None,
    json: bool = False,
    rate: Positive = 200.0,
    seed: int = 1,
    options: Options = DEFAULTS,
) -> int:
    """Run the service together with a WhatSMS that runs offline, and prove that nothing accepted was lost.

    It uses fresh SQLite files in the folder `demo` of `data_dir`; Kafka only if kafka.bootstrap_servers is set.

    Parameters
    ----------
    seconds
        Stop after so many seconds; without it, on Ctrl-C.
    json
        Print the last summary as JSON, alone on standard output.
    rate
        Webhooks a second.
    seed
        Of the offline world; the same seed sends the same story.
    """
    settings = options.load()
    from whatsms_events.cli import demo  # noqa: PLC0415 - heavy: mistakes are said first

    with demo.prepared(settings) as ready, (ready.data_dir / "service.log").open("ab", buffering=0) as lines:
        logs.configure(settings.logs.level, lines)

        async def main() -> bool:
            return await demo.run(ready, _stop_on_signals(), seconds=seconds, rate=rate, seed=seed, as_json=json)

        try:
            return 0 if run(main()) else 1
        except BaseException as exc:
            log.critical("process.crashed", exc_info=exc)
            print(f"the demo ended early; {lines.name} says more", file=sys.stderr)
            raise


@config_app.command
def check(*, options: Options = DEFAULTS) -> int:
    """Say every mistake of the configuration, a line each, and end with status 2; or say that it can be used."""
    settings = options.load()
    if not settings.tenants:
        raise ConfigError(NO_TENANTS)
    for line in (*advice(settings), *_server_advice(settings)):
        print(line)
    print("the configuration can be used")
    return 0


def _server_advice(settings: Settings) -> list[str]:
    """Look at the PostgreSQL server, if it is there; raise ConfigError where no log can be on it."""
    if settings.database.url is None or not settings.database.url.startswith("postgresql:"):
        return []
    from whatsms_events.serve_parts import log_target  # noqa: PLC0415 - heavy
    from whatsms_events.storage.database import check_server  # noqa: PLC0415 - heavy

    try:
        run(check_server(log_target(settings)))
    except StorageUnavailableError as exc:
        return [f"database.url: {exc}"]
    return []


@config_app.command
def show(*, options: Options = DEFAULTS) -> int:
    """Print every setting and where it comes from; secrets are not shown."""
    print(render(options.load()), end="")
    return 0


@db_app.command
def upgrade(*, options: Options = DEFAULTS) -> int:
    """Migrate log and projection to what this release needs.

    On SQLite `serve` does it by itself, and `serve` alone makes a log that is not there.
    """
    settings = options.load()
    from whatsms_events import serve as parts  # noqa: PLC0415 - heavy
    from whatsms_events.storage import database  # noqa: PLC0415 - heavy

    database.expect_log(parts.log_target(settings))

    async def main() -> None:
        await database.upgrade("log", parts.log_target(settings))
        await database.upgrade("projection", parts.projection_target(settings))

    run(main())
    print("log and projection are at head")
    return 0


@topics_app.command
def create(*, options: Options = DEFAULTS) -> int:
    """Create the three topics; those that exist are compared with the settings and never changed."""
    settings = options.load()
    from whatsms_events import serve as parts  # noqa: PLC0415 - heavy
    from whatsms_events.workers.kafka_topics import create_topics  # noqa: PLC0415 - heavy

    target = parts.kafka_target(settings)
    if target is None:
        raise ConfigError("kafka.bootstrap_servers: is not set")
    kafka = settings.kafka
    creating = create_topics(
        target,
        kafka.topic_prefix,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        retention_ms=kafka.retention_ms,
    )
    created = run(creating)
    for name in created:
        print(f"created {name}")
    if not created:
        print("all topics are there already")
    return 0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - an optional extra
    except ImportError:
        return asyncio.run(main)
    result: T = uvloop.run(main)
    return result


def _stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _cause(raised: BaseException) -> BaseException:
    """Return the one exception that task groups wrapped."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised


@contextmanager
def _addressed(settings: Settings) -> Iterator[None]:
    """Raise OSError again with the address that cannot be had and its setting, where a listener could not start."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as raised:
        found = _cause(raised)
        if isinstance(found, OSError) and (lines := list(_listeners_in_the_way(settings))):
            raise OSError(found.errno, "; ".join(lines)) from raised
        raise


def _listeners_in_the_way(settings: Settings) -> Iterator[str]:
    """Yield a line for each address that cannot be had. Asked anew: each loop says it in its own words."""
    for section, listener in (("public", settings.public), ("private", settings.private)):
        host, port = listener.host, listener.port
        try:
            for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
        except OSError as exc:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            says = (exc.strerror or type(exc).__name__).lower()
            yield f"cannot listen on {shown}: {says}; see {section}.host and {section}.port"


def main() -> None:
    """Run a command and exit with its status."""
    # Standard output is for data: our own lines go to the other, also where a command does not say how.
    logs.configure("warning")
    logging.getLogger().handlers[:] = [logging.NullHandler()]  # else libraries speak beside our one line
    try:
        sys.exit(app(result_action="return_value"))
    except (WhatsmsEventsError, OSError, BaseExceptionGroup) as raised:
        found = _cause(raised)
        match found:
            case ConfigError():
                for problem in found.problems:
                    print(problem, file=sys.stderr)
                sys.exit(2)
            case WhatsmsEventsError():
                print(f"{type(found).__name__}: {found}", file=sys.stderr)
                sys.exit(1)
            case OSError():  # a port that is taken, a folder that cannot be written
                print(found.strerror or type(found).__name__, file=sys.stderr)
                sys.exit(1)
            case _:
                raise
