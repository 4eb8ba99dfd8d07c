"""README and docs, as a reader follows them: each link leads somewhere, each command can be given, each name exists."""

import ast
import asyncio
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from sqlalchemy import insert

from servers import warm
from servers.compare import until
from servers.service import SECRET, SLUG, TENANT, Service, command
from test_docs import OPERATE, PAGES, ROOT, routes, rows, section
from test_journey import see, told
from whatsms_events.cli.app import app
from whatsms_events.config.load import load
from whatsms_events.config.render import describe
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import EventType, to_micros
from whatsms_events.domain.records import TOPICS
from whatsms_events.errors import ConfigError
from whatsms_events.lines import LINES
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection

CLIENT: Final = "src/whatsms_events/whatsms/README.md"
KAFKA: Final = "deploy/kafka/README.md"
WRITTEN: Final = {name: page for name, page in PAGES.items() if not name.startswith("docs/reference/")} | {
    CLIENT: (ROOT / CLIENT).read_text(encoding="utf-8")
}
"""The pages that people write."""

BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES: Final = {"sh", "text", "toml", "python"}
OTHERS: Final = {
    *(
        ".",
        "caddy",
        "curl",
        "docker",
        "install",
        "kubectl",
        "ln",
        "sh",
        "sudo",
        "systemctl",
        "systemd-sysusers",
        "openssl",
        "pip",
        "printf",
        "psql",
        "rm",
        "mv",
        "cp",
        "python3 -m venv",
        "python3 -c",
        "kafka-console-consumer.sh",
        "systemd-socket-activate",
    ),
    *("BODY", "SIGNATURE", "WHATSMS_SITE"),
}
"""How a line begins that calls a program of others, or sets a variable of the shell."""

OPEN_PATHS: Final = {
    *("/webhooks/{slug}", "/control", "/control/faults", "/control/pause", "/control/resume"),
    *("/api/v2", "/api/v2/tickets"),
}
"""Paths beside those of the private listener: the door's and the twin's."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """List the blocks of a language, with the page that each is on."""
    return ((name, text) for name, page in WRITTEN.items() for kind, text in BLOCK.findall(page) if kind == language)


def lines() -> list[tuple[str, str]]:
    """List every line of every block of commands; comments are left out."""
    return [
        (name, line)
        for name, text in blocks("sh")
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


each_line = pytest.mark.parametrize(("page", "line"), lines(), ids=[line[:60] for _, line in lines()])


def slug(title: str) -> str:
    """Return the anchor of a heading, as GitHub and others make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", [*PAGES, CLIENT, KAFKA, "bench/README.md"])
def test_each_link_leads_somewhere(name: str) -> None:
    """Each link names a file of the repository, and a heading of it where it names one; nothing is linked elsewhere."""
    page = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        path, _, heading = target.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), f"{name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {slug(title) for title in titles}, f"{name}: {target}"


def test_readme_leads_to_every_page() -> None:
    """A reader finds each page of docs from README; README itself stays short."""
    linked = set(re.findall(r"\]\(([^)#\s]+)", PAGES["README.md"]))
    assert linked >= {name for name in PAGES if name.startswith("docs/")}
    assert len(PAGES["README.md"].splitlines()) <= 110


def test_each_block_says_what_it_is() -> None:
    """Each block names its language, so that the tests below know what to do with it."""
    for name, page in WRITTEN.items():
        assert {kind for kind, _text in BLOCK.findall(page)} <= LANGUAGES, name


def options(command: str) -> dict[str, list[str]]:
    """Return the values of each `--name=value` or `--name value` of a line."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(--[a-z-]+)[= ]?(\S*)", command):
        found.setdefault(name, []).append(value)
    return found


def targets() -> set[str]:
    """List the targets of the Makefile that it documents."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def asked_of_us(words: list[str]) -> None:
    """Resolve a command of ours against the real command line, and what it sets against the real settings."""
    if words == ["--version"]:
        return
    _command, bound, unused = app.parse_args(words, exit_on_error=False, print_error=False)[:3]
    assert not unused
    given = bound.arguments.get("options")
    flags = dict(one.split("=", 1) for one in getattr(given, "set", ()))
    known = {".".join(name) for name, _value, _origin in describe(Settings())}
    assert set(flags) <= known


def asked_of_make(words: list[str]) -> None:
    """Resolve `make TARGET ARGS="..."`: the target is there, and what takes the arguments takes these."""
    target, *rest = words or ["help"]
    assert target in targets()
    arguments = dict(one.split("=", 1) for one in rest).get("ARGS", "")
    if target == "run":
        asked_of_us(["demo", *shlex.split(arguments)])
    elif arguments:
        assert target in {"test", "check"}
        assert all((ROOT / word.partition("::")[0]).exists() for word in shlex.split(arguments) if word[0] not in "-'")


def asked_of_a_script(words: list[str]) -> None:
    """Resolve `python3 SCRIPT ...` and `python -m pytest ...`: files and options are there."""
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[2:] if word.startswith("tests/"))
        return
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    assert all(f'"{word}"' in text for word in words[1:] if word.startswith("--") or word.isalpha())


@each_line
def test_each_command_can_be_given(page: str, line: str) -> None:
    """Each line of each block is a command of ours with options that it has, a target of make, or another's program."""
    for part in re.split(r" && |(?<=\))\s*$", line):
        words = shlex.split(part)
        match words:
            case []:
                continue
            case ["make", *rest]:
                asked_of_make(rest)
            case ["whatsms-events", *rest]:
                asked_of_us(rest)
            case ["export", assignment]:
                assert exported(assignment), f"{page}: {line}"
            case ["python3" | ".venv/bin/python", *rest] if rest[0] != "-c" and rest[:2] != ["-m", "venv"]:
                asked_of_a_script(rest)
            case _:
                first = re.match(r"python3 -m venv|python3 -c|[\w.-]+", part)
                assert first is not None
                assert first[0] in OTHERS, f"{page}: {line}"


def exported(assignment: str) -> bool:
    """Tell whether a variable is one of ours: a misspelt one is refused for its name, whatever else is missing."""
    name, _, value = assignment.partition("=")
    if name in {"WHATSMS_EVENTS_CONFIG", "WHATSMS_EVENTS_SECRETS_DIR"}:
        return True
    try:
        load(environ={name: value})
    except ConfigError as wrong:
        return name.startswith("WHATSMS_EVENTS_") and "no such setting" not in str(wrong)
    return name.startswith("WHATSMS_EVENTS_")


def test_a_misspelt_variable_is_not_ours() -> None:
    """The check above sees a wrong name, in a section and in a tenant."""
    assert exported("WHATSMS_EVENTS_KAFKA__PASSWORD=x")
    assert not exported("WHATSMS_EVENTS_KAFKA__PASSWD=x")
    assert not exported("WHATSMS_EVENTS_TENANTS__ACME__APIKEY=x")


def test_each_address_that_is_asked_exists() -> None:
    """Each path of ours that a command or a sentence names is a route of the private listener, the door or the twin."""
    patterns = [re.sub(r"\{\w+\}", r"[^/]+", path) for path in routes() | OPEN_PATHS]
    for name, page in WRITTEN.items():
        for path in re.findall(r"(?:`(?:GET |POST )?|http://127\.0\.0\.1:\d+)(/[\w/{}<>.-]*\w}?)", page):
            if path.startswith(("/api", "/livez", "/readyz", "/metrics", "/control", "/webhooks/")):
                assert any(re.fullmatch(one, path) for one in patterns), f"{name}: {path}"


def test_each_python_block_compiles_and_imports_what_is_there() -> None:
    """Python that a page shows is Python, and what it imports exists."""
    found = list(blocks("python"))
    assert found
    for name, text in found:
        for node in ast.walk(ast.parse(text, name)):
            if isinstance(node, ast.Import):
                for one in node.names:
                    importlib.import_module(one.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, one.name) for one in node.names), name


NOT_NAMES: Final = {
    *("max.message.bytes", "isolation.level", "transactional.id", "thing.happened", "data.message"),
}
FIELDS: Final = re.compile(
    r"(ack|user|queue|options|progress|report|revisions|door|matches|delivery|log|record|tables|thing|tickets|counts|parts"
    r"|events|parked_deliveries|parked_events|comparisons|tenants)\."
)
"""Fields within fields, as the page about the read API names them, and details of `/readyz`."""


def test_each_dotted_name_is_something() -> None:
    """A dotted name in code style is a setting, an event type, a topic, a log line or a file; and each kind is met."""
    settings = {".".join(name) for name, _value, _origin in describe(Settings())}
    settings |= {f"tenants.{slug}.{name}" for slug in ("acme",) for name in ("tenant_id", "api_key", "webhook_secrets")}
    topics = {f"{Settings().kafka.topic_prefix}.{name}" for name in TOPICS}
    types = {str(one) for one in EventType}
    met: set[str] = set()
    for name, page in WRITTEN.items():
        for dotted in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", page):
            met.add(dotted)
            if dotted.startswith("whatsms_events."):
                assert importlib.import_module(dotted)
                continue
            known = dotted.removeprefix("pt.whatsms.") in settings | topics | types | NOT_NAMES | set(LINES)
            file = dotted.rpartition(".")[2] in {"toml", "md", "py", "db", "svg", "json", "html", "txt"}
            member = dotted.startswith(("client.", "error.", "page.", "agents.", "msgspec."))
            assert known or file or member or FIELDS.match(dotted), f"{name}: {dotted}"
    assert all(met & kind for kind in (settings, topics, types, set(LINES)))


def test_every_line_that_needs_a_person_is_in_the_runbook() -> None:
    """Each line at error that asks an operator to act has its place in the runbook; mistakes of ours are not in it."""
    ours = {"http.failed", "process.crashed", "python.unraisable", "thread.crashed", "library.logged"}
    acted_on = {row[0].strip("`") for row in rows(PAGES["docs/reference/log-events.md"]) if "error" in row[1]}
    named = {name for name in LINES if re.search(rf"`{re.escape(name)}`", OPERATE)}
    assert acted_on - ours <= named, acted_on - ours - named
    assert section(OPERATE, "When something is wrong")


@pytest.mark.slow
@pytest.mark.process
async def test_the_commands_that_need_no_server_run_as_they_stand(tmp_path: Path) -> None:
    """Every such command of README and docs ends with status 0 beside a running service."""
    service = Service(tmp_path / "service")
    await service.start()
    folder = service.folder
    (folder / "var").mkdir()
    done = set()
    environment = {name: value for one in lines() for name, value in exports(one[1]) if "TENANTS__ACME" in name}
    for line in sorted({line for _page, line in lines()}):
        words = shlex.split(line)
        if words[0] == "whatsms-events" and words[1:3] in RUNNABLE and not {"--set", "--secrets-dir"} & set(words):
            done.add(" ".join(words[1:3]))
            status, complaints = run_ours(words[1:], folder, environment)
            assert status == 0, f"{line}: {complaints}"
    await service.stop()
    assert done == {" ".join(words) for words in RUNNABLE}


def run_ours(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command of ours in a folder; return its status and what it complained of."""
    done = warm.run(words, folder, environ=environment)
    return done.returncode, done.stderr


RUNNABLE: Final = [
    ["config", "check"],
    ["config", "show"],
    ["db", "upgrade"],
    ["parked", "list"],
    ["backfill", "status"],
]


def exports(line: str) -> list[tuple[str, str]]:
    """Return what a line exports."""
    return re.findall(r"^export (\w+)=(\S+)$", line)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="no curl or no openssl")
@pytest.mark.process
async def test_the_first_webhook_of_the_quickstart_arrives(tmp_path: Path) -> None:
    """The block as it stands, but for ids and ports, sends a webhook that is accepted, and shows its contact."""
    service = Service(tmp_path / "service")
    await service.start()
    block = section(PAGES["docs/quickstart.md"], "Send it a webhook").split("```sh\n")[1].split("```")[0]
    for shown, real in {
        "YOUR-TENANT-ID": TENANT,
        "YOUR-WEBHOOK-SECRET": SECRET,
        "127.0.0.1:8080": f"127.0.0.1:{service.public_port}",
        "127.0.0.1:8081": f"127.0.0.1:{service.private_port}",
        "acme": SLUG,
        "curl ": "curl -s ",
    }.items():
        assert shown in block
        block = block.replace(shown, real)
    said = ""

    async def applied() -> bool:
        nonlocal said
        said = shell(block)
        return '"name":"Ana"' in said

    await until(applied, 30, "the contact is shown")
    assert "HTTP/1.1 200" in said
    assert "contact.created" in said
    await service.stop()


@pytest.mark.process
async def test_the_tables_are_made_again_as_the_runbook_says(tmp_path: Path) -> None:
    """While the service runs, the commands of the page count, compare and swap, one after the other. A row that was
    lost is there again, and the service goes on.
    """
    service = Service(tmp_path / "service")
    await service.start()
    lines = re.findall(
        r"^whatsms-events (replay (?:projection|status).*) --config whatsms.toml(.*)$",
        section(OPERATE, "Replay the log"),
        re.MULTILINE,
    )
    assert len(lines) == 4
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        projection = await open_projection(
            DatabaseTarget(f"sqlite:///{service.folder / 'projection.db'}"), migrate=False
        )
        async with projection.write() as connection:
            await connection.execute(tables.contact.delete())
        await projection.close()
        said = [await asyncio.to_thread(command, service, *" ".join(words).split()) for words in lines]
        assert [("new" in text, "swapped" in text) for text in said] == [
            (False, False),
            (True, False),
            (True, True),
            (False, True),
        ]
        await see(session, service)
        await told(session, service)
        await see(session, service)
        await service.stop()


@pytest.mark.process
async def test_a_backup_is_made_and_restored_as_the_runbook_says(tmp_path: Path) -> None:
    """The runbook's commands, but for the backup's name, make a backup beside the running service and bring it back
    after its data is lost: the service shows what it showed, and takes in again.
    """
    service = Service(tmp_path / "service")
    config = service.config.read_text().replace('data_dir = "."', 'data_dir = "var"', 1)
    service.config.write_text(config)
    await service.start()
    (make,) = re.findall(r"^whatsms-events (backup .*)$", section(OPERATE, "Back it up"), re.MULTILINE)
    move, copy, check = BLOCK.findall(section(OPERATE, "Restore it"))[0][1].splitlines()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        status, complaints = await asyncio.to_thread(run_ours, make.split(), service.folder, {})
        assert status == 0, complaints
        await service.stop()
        (made,) = (service.folder / "backups").iterdir()
        shell(f"cd {service.folder} && {move} && {copy.replace('20260115T103000Z', made.name)}")
        status, complaints = await asyncio.to_thread(run_ours, check.split()[1:], service.folder, {})
        assert status == 0, complaints
        await service.start()
        await see(session, service)
        assert (service.folder / "var" / "log.db").stat().st_mode & 0o777 == 0o600
        await told(session, service)
        await service.stop()


async def fill_stuck(projection: Database) -> None:
    """Leave two stuck messages in a ticket with a channel, one in a ticket that nobody told, and two that are not."""
    day = to_micros(datetime.now(UTC) - timedelta(days=1, hours=1))
    ticket = {"tenant": "t1", "id": "k1", "channel": "whatsapp", "known": True, "doubtful": False, "versions": "{}"}
    plain = {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}", "from_me": True, "created_at": day}
    messages = [
        plain | {"id": "a", "ticket_id": "k1", "ack": 1},
        plain | {"id": "b", "ticket_id": "k1", "ack": 2},
        plain | {"id": "c", "ticket_id": "k2", "ack": 2},
        plain | {"id": "d", "ticket_id": "k1", "ack": 3},
        plain | {"id": "e", "ticket_id": "k1", "ack": 2, "created_at": to_micros(datetime.now(UTC))},
    ]
    async with projection.write() as connection:
        await connection.execute(insert(tables.ticket), [ticket])
        for one in messages:
            await connection.execute(insert(tables.message), [one])


@pytest.mark.process
async def test_the_stuck_messages_are_listed_as_the_runbook_says(postgres_url: str, tmp_path: Path) -> None:
    """Both commands list channel, ticket and count of what the gauge counts, the most first."""
    (on_sqlite,) = re.findall(r"^python3 -c .*FROM message.*$", OPERATE, re.MULTILINE)
    (on_postgres,) = re.findall(r'^psql "\$DATABASE_URL" -c "(SELECT .*FROM message .*)"$', OPERATE, re.MULTILINE)
    (tmp_path / "var").mkdir()
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'var' / 'projection.db'}"), migrate=True)
    await fill_stuck(projection)
    await projection.close()
    listed = shell(f"cd {tmp_path} && {on_sqlite.replace('python3', sys.executable)}")
    assert listed.splitlines() == ["whatsapp k1 2", "None k2 1"]
    projection = await open_projection(DatabaseTarget(postgres_url), migrate=True)
    await fill_stuck(projection)
    async with projection.read() as connection:
        found = [tuple(row) for row in await connection.exec_driver_sql(on_postgres)]
    await projection.close()
    assert found == [("whatsapp", "k1", 2), (None, "k2", 1)]


def shell(block: str) -> str:
    """Run a block of commands; return what it printed."""
    return subprocess.run(["sh", "-ec", block], capture_output=True, text=True, check=True).stdout


# The pictures.


@pytest.mark.parametrize("name", ["demo", "proof"])
def test_a_picture_fetches_nothing_and_names_no_machine(name: str) -> None:
    """It is well-formed, loads neither font nor image, and has no path of the machine that it was drawn on."""
    text = (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag.endswith("svg")
    elsewhere = re.findall(r"https?://(?!127\.0\.0\.1[:/])[^\s\"<]+", text)
    assert set(elsewhere) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@font-face|<image|url\((?!#)|/tmp/|/home/|/root|/Users/", text)


@pytest.mark.slow
def test_the_pictures_can_be_drawn(tmp_path: Path) -> None:
    """`make picture` runs the real demo and draws what its terminal showed, at work and at its end."""
    script = [sys.executable, str(ROOT / "docs" / "picture.py"), "--seconds", "2", "--into", str(tmp_path)]
    subprocess.run(script, check=True, timeout=300)
    words = {name: words_of((tmp_path / f"{name}.svg").read_text(encoding="utf-8")) for name in ("demo", "proof")}
    assert "message.received" in words["demo"]
    assert "accepted per second" in words["demo"]
    assert "every accepted delivery is in the log, once, and applied;" in words["proof"]


def words_of(picture: str) -> str:
    """Return the text of a picture."""
    return "".join(ET.fromstring(picture).itertext()).replace("\N{NO-BREAK SPACE}", " ")
