"""Real servers for the tests, one of each for the whole session; and what every test of this suite shares."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import pytest
import structlog
from hypothesis import settings

from servers import warm
from servers.kafka import Broker, RunningKafka, have_jars, is_ready, make_sasl_ssl
from servers.memory import keep_files_in_memory
from servers.migrated import once_a_session
from servers.postgres import Postgres, Standby, create_database, drop_database, given_url, programs
from servers.process import UnavailableError, run_apart, running
from servers.proxy import TcpProxy
from servers.shared import shared_broker

# The machine that runs the tests decides how long an example takes, so no deadline; CI must not fail by chance.
settings.register_profile("whatsms", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("quick", deadline=None, max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "whatsms"))

REQUIRED = os.environ.get("WHATSMS_TEST_REQUIRE_SERVERS") == "1"
NEEDS = {
    "kafka": {"kafka", "new_broker", "sasl_broker"},
    "postgres": {"postgres_url", "own_postgres"},
}
NOT_TESTED = "NOT TESTED: "
WAITING = ("chaos", "process", "kafka")
"""Tests with these marks mostly wait for servers and processes."""


def pytest_configure() -> None:
    """Say where temporary files are, before the first of them, and how tracebacks are written."""
    keep_files_in_memory()
    # structlog's default draws a traceback with all local values: seconds of a slow machine, in the loop's thread.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the servers that its fixtures start, and put the files into the order in which they begin."""
    for item in items:
        for marker, fixtures in NEEDS.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)
    begins = {path: place for place, path in enumerate(in_turns(items))}
    items.sort(key=lambda item: begins[item.path])


def in_turns(items: Sequence[pytest.Item]) -> Sequence[Path]:
    """Return the tests' files: one that waits and one that computes, in turns, so that the processors are never idle.

    Chaos comes first: its files take minutes, and the last one to begin decides when the suite ends.
    """
    chaos = {item.path for item in items if item.get_closest_marker("chaos")}
    waiting = {item.path for item in items if any(map(item.get_closest_marker, WAITING))}
    files = list(dict.fromkeys(item.path for item in items))
    waits = sorted((file for file in files if file in waiting), key=lambda file: file not in chaos)
    computes = [file for file in files if file not in waiting]
    return [file for pair in zip_longest(waits, computes) for file in pair if file is not None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly, in one line each, what was not tested for want of a server."""
    # From the reports: where tests run in several processes, nothing else comes together here.
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    reasons = Counter(text.partition(NOT_TESTED)[2] for text in skipped if NOT_TESTED in text)
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{NOT_TESTED}{count} tests were skipped: {reason}", red=True, bold=True)


def missing(reason: str) -> NoReturn:
    """Skip the test for want of a server, or fail it where servers are required (CI)."""
    if REQUIRED:
        pytest.fail(f"{reason} (WHATSMS_TEST_REQUIRE_SERVERS=1)", pytrace=False)
    pytest.skip(f"{NOT_TESTED}{reason}")


@pytest.fixture(scope="session", autouse=True)
def _no_leaked_servers() -> Iterator[None]:
    """Fail the session if a server outlives its fixture: autouse, so up before and down after all of them."""
    yield
    left = running()
    for server in left:
        server.kill_now()
    warm.end()
    assert not left, f"still running at the end: {left}"


@pytest.fixture(scope="session", autouse=True)
def _migrated_once() -> Iterator[None]:
    """Let new databases repeat the statements of one real migration each, see `servers.migrated`."""
    with once_a_session():
        yield


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str | UnavailableError]:
    """Run PostgreSQL for the session: its URL, or why there is none."""
    if url := given_url():
        yield url
        return
    try:
        server = Postgres(programs())
    except UnavailableError as exc:
        yield exc
        return
    try:
        server.initialise()
        run_apart(server.start())
        yield server.url
    finally:
        run_apart(server.remove())


@pytest.fixture
def postgres_url(_postgres_server: str | UnavailableError) -> Iterator[str]:
    """Give a fresh, empty database on a real PostgreSQL, as postgresql://user@host:port/name."""
    if isinstance(_postgres_server, UnavailableError):
        missing(str(_postgres_server))
    url = run_apart(create_database(_postgres_server))
    yield url
    run_apart(drop_database(_postgres_server, url))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give each kind of database in turn: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def own_postgres() -> AsyncIterator[Postgres]:
    """Give a PostgreSQL server of this test alone, running; it may be killed."""
    try:
        server = Postgres(programs())
    except UnavailableError as exc:
        missing(str(exc))
    try:
        server.initialise()
        await server.start()
        yield server
    finally:
        await server.remove()


@pytest.fixture
async def standby(own_postgres: Postgres) -> AsyncIterator[Standby]:
    """Give a standby of `own_postgres`, running; the primary commits nothing that is not on its disk too."""
    server = Standby(own_postgres)
    try:
        server.initialise()
        await server.follow()
        yield server
    finally:
        await server.remove()


@pytest.fixture(scope="session")
def _kafka_jars() -> UnavailableError | None:
    """Get the jars once a session; why there are none, if so."""
    try:
        have_jars()
    except UnavailableError as exc:
        return exc
    return None


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[RunningKafka]:
    """Give the real Kafka of this test run: `.bootstrap`. Others use it too: have a topic prefix of your own."""
    if bootstrap := os.environ.get("WHATSMS_TEST_KAFKA"):
        if not is_ready(bootstrap):
            pytest.fail(f"no Kafka answers at WHATSMS_TEST_KAFKA={bootstrap}", pytrace=False)
        yield RunningKafka(bootstrap)
        return
    if no_jars := request.getfixturevalue("_kafka_jars"):
        missing(str(no_jars))
    with shared_broker(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))) as broker:
        yield broker


@pytest.fixture
def topic_prefix() -> str:
    """Give a prefix that no other test uses."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def new_broker(_kafka_jars: UnavailableError | None, tmp_path: Path) -> Broker:
    """Give a Kafka broker of this test alone that does not run yet: the test starts and removes it."""
    if _kafka_jars:
        missing(str(_kafka_jars))
    folder = tmp_path / "broker"
    folder.mkdir()
    return Broker(folder)


@pytest.fixture
async def own_broker(new_broker: Broker) -> AsyncIterator[Broker]:
    """Give a Kafka broker of this test alone, running; it may be killed, frozen and started again."""
    try:
        await new_broker.start()
        yield new_broker
    finally:
        await new_broker.remove()


@pytest.fixture
async def proxied_broker(new_broker: Broker) -> AsyncIterator[tuple[Broker, TcpProxy]]:
    """Give a Kafka broker of this test alone that clients reach by a proxy only, and the proxy."""
    try:
        async with TcpProxy(new_broker.port, kafka=True) as proxy:
            new_broker.advertised_port = proxy.port
            await new_broker.start()
            yield new_broker, proxy
    finally:
        await new_broker.remove()


@pytest.fixture(scope="module")
def sasl_broker(_kafka_jars: UnavailableError | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Give a Kafka broker that wants TLS and a password; `.sasl_ssl` says which. For the tests of one module."""
    if _kafka_jars:
        missing(str(_kafka_jars))
    folder = tmp_path_factory.mktemp("sasl")
    broker = Broker(folder, sasl_ssl=make_sasl_ssl(folder))
    try:
        run_apart(broker.start())
        yield broker
    finally:
        run_apart(broker.remove())
