"""The documentation, held to the code."""

import importlib.util
import re
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import cyclopts
import msgspec
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request
from prometheus_client import Counter, Gauge, Histogram, Info
from pytest_aiohttp.plugin import AiohttpClient
from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, SmallInteger, Table, Text, Uuid, insert, update

import whatsms_events
from servers.metric import labels_of, name_of, text_of
from whatsms_events import clock, metrics
from whatsms_events.backfill.run import Report, RunStanding
from whatsms_events.cli import app as cli
from whatsms_events.config.load import load
from whatsms_events.config.render import describe
from whatsms_events.config.settings import Settings
from whatsms_events.domain.differences import COMPARED
from whatsms_events.domain.drift import Count, Finding
from whatsms_events.domain.events import Campaign, Contact, EventType, Message, Ticket, to_micros
from whatsms_events.domain.records import TOPICS, KafkaRecord, to_record
from whatsms_events.domain.signature import REASONS
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.errors import SignatureError
from whatsms_events.lines import LINES
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.person import People
from whatsms_events.storage.privacy import PrivacyCounts
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Options, Reports
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.trace import EventFacts, Traces
from whatsms_events.web import api, app, receiver
from whatsms_events.web.access import Access
from whatsms_events.web.documents import ContractFiles
from whatsms_events.web.export import PersonExport
from whatsms_events.web.feed import Feed
from whatsms_events.web.health import Health
from whatsms_events.web.privacy import PrivacyReport
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.running import RunningSettings
from whatsms_events.web.trace import Tracing

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""README and every page of docs, by its path."""
EVENTS, OPERATE, READ_API = (PAGES[f"docs/{name}.md"] for name in ("events-and-kafka", "operate", "read-api"))
PACKAGE = Path(whatsms_events.__file__).parent
NONE = "\N{EN DASH}"
KINDS = (Counter, Gauge, Histogram, Info)


def scraped() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """List every metric by the name it is scraped under, with its text and its labels."""
    for metric in vars(metrics).values():
        if isinstance(metric, KINDS):
            suffix = {Counter: "_total", Info: "_info"}.get(type(metric), "")
            yield name_of(metric) + suffix, text_of(metric), labels_of(metric)


def section(page: str, title: str) -> str:
    """Return what a page says under a title."""
    assert page.count(f"\n## {title}\n") == 1, title
    return page.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without heads."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return [row for row, following in zip(cells, [*cells[1:], ["-"]], strict=False) if "---" not in (row + following)]


def commands(app: cyclopts.App, prefix: str = "") -> list[str]:
    """List every command as it is typed."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        sub = app[name]
        nested = commands(sub, f"{prefix}{name} ")
        found += nested or [f"{prefix}{name}"]
    return found


@pytest.mark.parametrize(("name", "meaning", "labels"), list(scraped()), ids=[name for name, *_ in scraped()])
def test_each_metric_is_documented_with_its_meaning(name: str, meaning: str, labels: tuple[str, ...]) -> None:
    """The page about metrics has a row with exactly the labels and the text that /metrics shows; it has our prefix."""
    assert name.startswith("whatsms_events_")
    page = PAGES["docs/reference/metrics.md"]
    shown = ", ".join(f"`{label}`" for label in labels) or NONE
    assert [f"`{name}`", shown, meaning] in [[row[0], *row[2:]] for row in rows(page)]


def test_no_metric_is_documented_that_does_not_exist() -> None:
    """Every metric that a page names is one of the code's."""
    named = {name for page in PAGES.values() for name in re.findall(r"`(whatsms_events_[a-z_]+)`", page)}
    assert named == {name for name, *_ in scraped()}


@pytest.mark.parametrize("name", commands(cli.app))
def test_each_command_is_documented(name: str) -> None:
    """The runbook has a row for the command that says what it does."""
    assert [f"`{name}`"] in [row[:1] for row in rows(section(OPERATE, "Use the commands")) if row[1]]


def test_no_command_is_documented_that_does_not_exist() -> None:
    """Every row of the runbook's commands is a command."""
    assert {row[0].strip("`") for row in rows(section(OPERATE, "Use the commands"))} == set(commands(cli.app))


def test_commands_are_found() -> None:
    """The walk over the commands sees them, so the test above tests something."""
    assert {"serve", "demo", "config check", "db upgrade", "topics create", "parked retry"} <= set(commands(cli.app))


@pytest.mark.parametrize("event_type", EventType)
def test_each_event_type_is_documented(event_type: EventType) -> None:
    """The table of events on the page about Kafka names it."""
    assert f"`{event_type}`" in section(EVENTS, "Know the events")


def test_settings_that_are_named_exist() -> None:
    """Every section.setting that a page names is a field of Settings."""
    sections = {name for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")}
    known = {".".join(name) for name, _value, _origin in describe(load(environ={}))}
    others = {f"{Settings().kafka.topic_prefix}.{suffix}" for suffix in TOPICS}
    others |= {*LINES, "whatsms.toml", "retention.ms"}  # the last is Kafka's, for a topic
    for path, page in PAGES.items():
        for section, name in re.findall(r"`([a-z_]+)\.([a-z_]+)\b[^`/]*`", page):
            if section in sections and f"{section}.{name}" not in others:
                assert f"{section}.{name}" in known, path


def test_headers_of_a_record_are_documented() -> None:
    """The page about Kafka lists every header that a record can have."""
    from domain.test_records import LOG_ID, entry_of

    record: KafkaRecord = to_record(entry_of(), LOG_ID)
    for header, _value in record.headers:
        assert f"`{header}`" in section(EVENTS, "Find an event in Kafka")


def test_files_that_are_named_exist() -> None:
    """Every path that a page names leads somewhere."""
    for name, page in PAGES.items():
        for path in re.findall(r"`((?:config|deploy|docs|tests|src|bench|examples)/[\w./-]+)`", page):
            if not path.startswith("config/") or "." in path:  # `config/checks` is a module, without the package's path
                assert (ROOT / path).exists(), f"{name}: {path}"


def outcomes() -> dict[str, int]:
    """Return the status of every outcome that a delivery can have, as the code's tables say."""
    kinds = dict.fromkeys(get_args(Outcome.__annotations__["kind"]), 200) | {"parked": 202}
    refused = {f"signature_{reason}": SignatureError for reason in REASONS} | {
        name: kind for kind, name in receiver.REFUSALS
    }
    ours = {
        name: next((s for known, s in app.STATUSES if issubclass(kind, known)), 0) for name, kind in refused.items()
    }
    # What reaches no route: `Connection.handle_error` answers the one, and the other not at all.
    kinds |= {"failed": 500, "unparsable": 400, "leftover": 0}
    return kinds | {name: ours[name] or vars(kind)["status_code"] for name, kind in refused.items()}


def test_every_answer_of_the_door_is_documented() -> None:
    """The runbook's table of what the door answers has every outcome with its status, and no other."""
    documented = {
        outcome: 0 if row[1].startswith("none") else int(row[1][:3])
        for row in rows(section(OPERATE, "Know what the door answers"))
        for outcome in re.findall(r"`([a-z_]+)`", row[2])
    }
    assert documented == outcomes()


def routes() -> set[str]:
    """List every path of the private listener, its placeholders without their patterns."""
    nothing: Any = None
    parts = (
        api.Api(nothing, {}, nothing),
        Rejects({}, 0, now=clock.now),
        RunningSettings(lambda _salt: {}),
        Tracing(nothing, nothing, nothing, {}),
        Feed(nothing, nothing, {}, ()),
        PersonExport(nothing, nothing, nothing, {}),
        PrivacyReport(nothing, nothing, {}, nothing),
        ContractFiles({}),
        Health(checks={}, needs={}, roles=dict, details=dict, starting=lambda: None, draining=bool),
    )
    found = {getattr(route, "path", "") for part in parts for route in part.routes()}
    return {re.sub(r"\{(\w+):[^}]+\}", r"{\1}", path) for path in found}


# The page about the read API.

Client = TestClient[web.Request, web.Application]

SHARED = "What every ticket, message, contact and campaign has"
OF_ENTITIES = {"Tickets", "Messages", "Contacts", "Campaigns"}
TOLD = {"raw": "1", "find": "x"}
"""Parameters that are given, since an answer has less without them, or is refused."""

OPAQUE = {"data", "extra_info", "settings", "content", "shown"}
"""Fields that hold what the vendor or its users made, and the settings, which have a page of their own."""

ROWS_WITHIN = ("contacts", "tickets", "messages")
"""What stands in the export of a person as it does in its own list."""

SAMPLES: dict[str, object] = {
    "tenant": "tenant-1",
    "type": "message.received",
    "origin": "webhook",
    "sha256": bytes(32),
    "discarded_at": None,  # what was discarded is in a list of its own
    "versions": '{"body":[0,1,3,true],"gone":[0,2,3,false]}',
    "data": '{"message":{"id":"x"}}',
    "raw": b'{"contact":{"id":"x"}}',
    "content": '{"body":"a","media_type":"b","deleted":false}',
    "extra_info": '[{"name":"a","value":"b"}]',
}
KINDS_OF_COLUMNS: tuple[tuple[type, object], ...] = (
    (SmallInteger, 4),
    (BigInteger, 1),
    (Integer, 1),
    (Boolean, True),
    (Uuid, UUID(int=1)),
    (LargeBinary, b"x"),
    (Text, "x"),
)


def filled(table: Table) -> dict[str, object]:
    """Return a row in which every column has a value; every id is "x"."""
    return {
        column.name: SAMPLES.get(
            column.name, next(value for kind, value in KINDS_OF_COLUMNS if isinstance(column.type, kind))
        )
        for column in table.c
    }


async def fill(log: Database, projection: Database) -> None:
    """Leave one of everything that the read API shows, a run that has finished and one that has not."""
    for database, names in (
        (log, (tables.event_log, tables.redelivery, tables.parked_delivery, tables.erasure)),
        (projection, (tables.ticket, tables.message, tables.message_revision, tables.contact, tables.campaign)),
        (projection, (tables.parked_event,)),
    ):
        async with database.write() as connection:
            for table in names:
                await connection.execute(insert(table).values(filled(table)))
    stuck = filled(tables.message) | {"id": "stuck", "ack": 2, "failed_at": None, "deleted": False}
    stuck["created_at"] = to_micros(clock.now()) - 2 * 86_400_000_000
    async with projection.write() as connection:
        await connection.execute(insert(tables.message).values(stuck))
    at, checkpoints = datetime(2026, 5, 1, tzinfo=UTC), Checkpoints(log)
    count = Count(entity="ticket", kind="stale", age="older", count=1)
    report = Report(
        kind="reconcile", cause="schedule", started_at=at, finished_at=at, requests=1, looked_at={"ticket": 1},
        drift=[count], unseen=0, unsettled=0, unusable=0, unstable=(),
    )  # fmt: skip
    standing = msgspec.json.encode(RunStanding(drift=(count,)))
    for finished in (True, False):
        run = await checkpoints.begin("tenant-1", "reconcile", "schedule", Options(), at)
        await checkpoints.save(run, standing, now=at, drift=[Finding("ticket", "x", "stale", ("status",), 1.0)])
        if finished:
            await checkpoints.finish(run, msgspec.json.encode(report), at)


async def no_kafka(_found: EventFacts) -> RecordPlace:
    """Say that Kafka is off."""
    return RecordPlace("off")


@pytest.fixture
async def filled_api(tmp_path: Path, aiohttp_client: AiohttpClient) -> AsyncIterator[Client]:
    """Give the real read API over real databases that hold one of everything."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    await fill(log, projection)
    health = Health(checks={}, needs={}, roles=dict, details=dict, starting=lambda: None, draining=bool)
    reading = api.Api(Queries(log, projection), {"shop": "tenant-1"}, Reports(log))
    running = RunningSettings(lambda _salt: {"public.port": 8080})
    rejects = Rejects({"shop": "t1"}, 1, now=clock.now)
    rejects.keep("shop", make_mocked_request("POST", "/webhooks/shop"), b"{}", "wrong")
    tracing = Tracing(Traces(log, projection), no_kafka, Queries(log, projection), {"shop": "tenant-1"})
    feed = Feed(Queries(log, projection), EventLog(log), {"shop": "tenant-1"}, ())
    people = People(log, projection)
    exports = PersonExport(people, EventLog(log), Queries(log, projection), {"shop": "tenant-1"})
    counts = PrivacyCounts(log, projection)
    privacy = PrivacyReport(counts, Queries(log, projection), {"shop": "tenant-1"}, lambda _tenant, _at: {})
    parts = (health, rejects, running, tracing, feed, exports, privacy, reading)
    yield await aiohttp_client(app.private_app(Access([]), *parts))
    feed.stop()
    await projection.close()
    await log.close()


def page_sections() -> dict[str, str]:
    """Return the page's sections by title."""
    return {part.partition("\n")[0]: part for part in READ_API.split("\n## ")[1:]}


def documented(text: str) -> tuple[dict[str, list[str]], set[str]]:
    """Return what a section's tables name: each path with its parameters, and the fields."""
    paths, fields = {}, set()
    for first, *others in rows(text):
        if (name := re.fullmatch(r"`([^`]+)`", first)) and name[1].startswith("/"):
            paths[name[1]] = re.findall(r"`(\w+)`", others[0])
        elif name and len(others) == 1:
            fields.add(name[1])
    return paths, fields


READING = {title: documented(text) for title, text in page_sections().items()}
PATHS = {path: (title, asked) for title, (paths, _) in READING.items() for path, asked in paths.items()}


def asked_for(path: str) -> str:
    """Return a path as it is asked for."""
    return path.format(slug="shop", id="x", position="1", number="1")


def fields_of(value: object, above: str = "") -> Iterator[str]:
    """List the fields of an answer, those within others with dots; rows of a list have the names of one."""
    if isinstance(value, list):
        for one in value:
            yield from fields_of(one, above)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{above}{name}"
            if name not in OPAQUE:
                yield from fields_of(inner, f"{above}{name}.")


def test_the_page_has_every_path() -> None:
    """Each path of the private listener is on the page about the read API, and no other."""
    assert set(PATHS) == routes()


async def test_the_page_has_every_field_that_an_answer_has(filled_api: Client) -> None:
    """Each field of each answer of the real API is explained in the section of its path, and no other field is."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, (title, asked) in PATHS.items():
        if not path.startswith("/api/"):
            continue
        async with filled_api.get(asked_for(path), params={one: TOLD[one] for one in asked if one in TOLD}) as answer:
            assert answer.status == 200, path
            if answer.content_type != "application/json":
                continue
            shown = await answer.json()
        for name in ROWS_WITHIN if path.endswith("/export") else ():
            assert shown[name], name
            shown[name] = []
        if "next" in shown:
            assert shown.pop("next") is None or path == "/api/v1/events"
            (plural,) = (name for name, value in shown.items() if isinstance(value, list))
            assert f"`{plural}`" in page_sections()[title]
            listed = set(fields_of(shown.pop(plural)))
            assert listed, path
            found[title] |= listed
        found[title] |= set(fields_of(shown))
    for title, fields in found.items():
        assert fields == READING[title][1] | (READING[SHARED][1] if title in OF_ENTITIES else set()), title
    for path in ("/livez", "/readyz"):
        async with filled_api.get(path) as answer:
            assert all(name in page_sections()["Health"] for name in await answer.json())


async def test_the_page_has_every_field_that_a_trace_has(filled_api: Client, tmp_path: Path) -> None:
    """Each field of a trace of an event, a parked delivery and a thing is explained, and none is named that there is
    not. The levels of an ack are with the messages.
    """
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=False)
    async with log.write() as connection:
        await connection.execute(
            update(tables.event_log).values(type="message.ack", data='{"message":{"id":"x","ack":2}}')
        )
    await log.close()
    fields: set[str] = set()
    for name, kind in ((UUID(int=1), "event"), (UUID(int=1), "parked"), ("x", "message"), ("x", "ticket")):
        async with filled_api.get(f"/api/v1/shop/trace/{name}", params={"kind": kind}) as answer:
            assert answer.status == 200, await answer.text()
            fields |= set(fields_of((await answer.json())["trace"]))
    page = page_sections()["What a trace shows"]
    leaves = {one for one in fields if "ack." not in one and not any(other.startswith(f"{one}.") for other in fields)}
    words = set(re.findall(r"`([\w.]+)`", page))
    assert {one for one in leaves if not {one, f"thing.{one}", one.rpartition(".")[2]} & words} == set()
    assert {word for word in words if "." in word} <= fields


async def test_the_page_has_every_parameter(filled_api: Client) -> None:
    """Each path takes the parameters that the page gives it, and no other."""
    every = {name for _title, asked in PATHS.values() for name in asked} | {"page"}
    for path, (_title, asked) in PATHS.items():
        for name in every if path.startswith("/api/") else ():
            async with filled_api.get(asked_for(path), params={name: "1"}) as answer:
                unknown = answer.status == 400 and "is not known here" in await answer.text()
            assert unknown == (name not in asked), (path, name)


def test_the_page_says_what_a_reconcile_compares_and_what_data_holds() -> None:
    """Its tables name exactly the fields that the comparison looks at, and those of the four resources."""
    compared = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1]))
        for row in rows(page_sections()["What a reconcile compares"])
    }
    assert compared == {name: {*fields, *(["ack"] if name == "message" else [])} for name, fields in COMPARED.items()}
    shapes: dict[str, set[str]] = {
        kind.__name__.lower(): set(kind.__struct_fields__) for kind in (Message, Ticket, Contact, Campaign)
    }
    held = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows(page_sections()["An event's data"])}
    assert held == shapes


def exported(page: str, block: str) -> dict[str, str]:
    """Return what a page gives by the environment to the sections of one of its blocks."""
    sections = {name.replace(".", "__").upper() for name in re.findall(r"^\[([\w.]+)\]", block, re.MULTILINE)}
    given = re.findall(r"^export WHATSMS_EVENTS_(\w+)=(\S+)$", page, re.MULTILINE)
    return {
        f"WHATSMS_EVENTS_{name}": value for name, value in given if any(name.startswith(f"{one}__") for one in sections)
    }


def test_blocks_of_toml_load(tmp_path: Path) -> None:
    """What a page shows as TOML is a configuration that loads, with the secrets that the page gives beside it."""
    blocks = [
        (page, block)
        for page in PAGES.values()
        for block in re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    ]
    assert len(blocks) > 5
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    for number, (page, block) in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(re.sub(r"/etc/[\w/-]+\.pem", str(authority), block))
        settings = load(path, environ=exported(page, block))
        assert any(origin == "file" for _name, _value, origin in describe(settings))


def test_five_lines_of_real_use_make_a_configuration(tmp_path: Path) -> None:
    """The lines under "Use it" that write a file and export a secret make a tenant; there are five at most."""
    block = section(README, "Use it").split("```sh\n")[1].split("```")[0].strip().splitlines()
    assert len(block) <= 5
    (write,) = [line for line in block if line.startswith("printf ")]
    subprocess.run(["sh", "-c", write], cwd=tmp_path, check=True)
    (export,) = [line.removeprefix("export ") for line in block if line.startswith("export ")]
    (start,) = [line for line in block if line.startswith("whatsms-events ")]
    settings = load(tmp_path / start.split()[-1], environ=dict([export.split("=", 1)]))
    (slug,) = settings.tenants
    assert f"/webhooks/{slug}" in block[-1]


def map_of(package: str) -> str:
    """Return the lines of the package's map that are about one of its packages, or about its own modules."""
    text, inside = "", ""
    for line in (whatsms_events.__doc__ or "").splitlines():
        if re.match(r" {4}\S", line):
            opening = re.match(r" {4}(\w+)/", line)
            inside = opening[1] if opening else ""
        text += f"{line}\n" if inside == package else ""
    return text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_each_module_is_in_the_map(path: Path) -> None:
    """The docstring of the package names every module in the place of its package."""
    place = path.relative_to(PACKAGE)
    package = place.parts[0] if len(place.parts) > 1 else ""
    if "migrations" in place.parts:
        assert "migrations/" in map_of("storage")
    elif not path.stem.startswith("__"):
        assert re.search(rf"\b{path.stem}\b", map_of(package)), f"{place} is not in the map"


def test_nothing_of_one_machine_is_in_the_repository() -> None:
    """No lock file that carries addresses of a mirror, and no address in ours."""
    assert not list(ROOT.glob("pylock.toml"))
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_every_fault_has_its_tests() -> None:
    """Each of the 36 faults has two tests or more beside it, and every test that the page names is there."""
    page = PAGES["docs/faults.md"]
    assert [int(row[0]) for row in rows(page)] == list(range(1, 37))
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    for row in rows(page):
        assert row[3].count("::") >= (1 if row[0] in ("5", "31") else 2), row[0]
    lacking = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists() or f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert not lacking


def _made() -> Iterator[tuple[str, str]]:
    """Return each reference page as the code makes it now."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in generate.PAGES.items():
        yield name, page()
    logged = set(generate.logged()) | {"library.logged"}
    assert logged == set(LINES), logged ^ set(LINES)


def test_reference_pages_are_as_the_code_makes_them() -> None:
    """`make docs` would change nothing, and every log line of the code has its sentence in `lines`."""
    for name, page in _made():
        assert PAGES[f"docs/reference/{name}.md"] == page, f"docs/reference/{name}.md is stale: make docs"
