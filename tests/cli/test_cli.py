"""The commands as processes: exit status, what they say, and on which of the two outputs."""

import json
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import asyncpg
import pytest
import trustme
from confluent_kafka.admin import AdminClient

from cli.commands import CONFIG, Done, make_log, run
from servers import postgres
from servers.kafka import RunningKafka
from servers.ports import HOST, free_port
from servers.postgres import Postgres, ask
from servers.service import SECRET
from test_docs import commands
from whatsms_events import __version__
from whatsms_events.cli import app as cli
from whatsms_events.domain.records import TOPICS

pytestmark = pytest.mark.process

OWN_OPTIONS = {
    "serve": {"--roles"},
    "demo": {"--seconds", "--json", "--rate", "--seed"},
    "completion": {"SHELL"},
    "config check": set(),
    "config show": set(),
    "config diff": {"--url", "--json"},
    "db upgrade": set(),
    "topics create": set(),
    "events list": {"--after", "--limit", "--tenant", "--type", "--json"},
    "events show": {"POSITION", "--raw"},
    "events tail": {"--after", "--tenant", "--type", "--ticket", "--json", "--url"},
    "backup": {"--to"},
    "trace": {"NAME", "--tenant", "--kind", "--reach", "--json"},
    "privacy report": {"--tenant", "--json"},
    "privacy keys": {"--json"},
    "export": {"--contact", "--out", "--tenant"},
    "log verify": {"--after", "--through", "--head", "--json"},
    "log copy": {"--to", "--finish", "--take-back", "--password-file", "--tls", "--tls-ca-file"},
    "parked list": {"--stage", "--reason", "--discarded", "--limit"},
    "parked show": {"NAME"},
    "parked retry": {"NAME", "--reason", "--stage"},
    "parked discard": {"NAME", "--reason", "--stage"},
    "parked restore": {"NAME", "--reason", "--discarded-at", "--stage"},
    "verify": {"SAVED", "--header", "--tenant", "--log", "--json"},
    "backfill run": {"--tenant", "--wait", "--details", "--messages", "--allow-gone", "--json"},
    "backfill status": {"--tenant", "--json"},
    "backfill stop": {"--tenant"},
    "replay projection": {
        *("--go", "--swap", "--rate", "--examples", "--personal", "--json"),
        *("--from-position", "--to-position", "--since", "--until", "--tenant", "--type"),
    },
    "replay kafka": {
        *("--prefix", "--go", "--rate", "--json"),
        *("--from-position", "--to-position", "--since", "--until", "--tenant", "--type"),
    },
    "replay status": {"--json"},
    "replay discard": {"--prefix"},
    "secrets status": {"--tenant", "--json"},
    "forget": {"--tenant", "--contact", "--go", "--rewrite", "--wait", "--json"},
    "suppressions export": {"FILE"},
    "suppressions import": {"FILE"},
    "twin": {
        *("--target", "--secret-file", "--host", "--port", "--api-key", "--tenant-id", "--seed", "--rate", "--dialect"),
        *("--past", "--seconds", "--paused", "--drop", "--redeliver", "--reorder", "--delay"),
        *("--api-fault", "--requests-per-minute"),
    },
}
UNCONFIGURED = {"twin", "completion"}
"""Commands that have nothing of the service's configuration."""

NO_KEY = "tenants: none has an api_key, so nothing that the webhook misses is found"
CANARY = "canary-S3cret-value-91c2"


def set_to(**settings: object) -> list[str]:
    """Return flags for settings; "__" stands for the dot."""
    return [word for name, value in settings.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def assert_refused(done: Done, *lines: str) -> None:
    """Check for exit status 2, nothing on standard output, and exactly these lines on standard error, as patterns.

    Beside them may be log lines: a service that opens its listeners first has begun to log by then.
    """
    assert (done.status, done.out) == (2, []), done
    said = [line for line in done.err if not line.startswith("{")]
    assert len(said) == len(lines), done.err
    for line, pattern in zip(said, lines, strict=True):
        assert re.fullmatch(pattern, line), line


# What is wrong with the configuration: status 2.


def test_postgresql_behind_head_is_refused_with_the_command_to_run(postgres_url: str, tmp_path: Path) -> None:
    """`serve` on a PostgreSQL that was not migrated ends with 2 and names `whatsms-events db upgrade`."""
    done = run(tmp_path, "serve", *set_to(database__url=postgres_url))
    assert_refused(done, r"the log schema is at nothing, this release needs \w+: run `whatsms-events db upgrade`")


async def test_postgresql_that_does_not_wait_for_the_disk_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """`serve` on a database with synchronous_commit off ends with 2 and names it; set back, it gets further."""
    where = set_to(database__url=postgres_url)
    assert run(tmp_path, "db", "upgrade", *where).status == 0
    connection = await asyncpg.connect(postgres_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    says = "the log is not durable: synchronous_commit is off, needs .*; refusing to start"
    assert_refused(run(tmp_path, "serve", *where), says)
    await connection.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit')
    await connection.close()
    with socket.create_server((HOST, 0)) as taken:  # so that it ends by itself, after the check
        port = taken.getsockname()[1]
        assert run(tmp_path, "serve", *where, *set_to(public__port=port)).status == 1


async def test_postgresql_database_that_cannot_hold_every_text_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """On a database in LATIN1, which would park each text with an emoji, every command ends with 2 and says the way."""
    name = postgres_url.rsplit("/", 1)[1] + "_latin"
    await ask(postgres_url, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    where = set_to(database__url=postgres_url + "_latin")
    for command in (["db", "upgrade"], ["config", "check"], ["serve"]):
        assert_refused(run(tmp_path, *command, *where), ".*encoding is LATIN1.* TEMPLATE template0 ENCODING 'UTF8'")
    await ask(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_postgresql_server_that_may_lose_commits_is_refused(
    own_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` on a server with fsync or full_page_writes off ends with 2 and names it."""
    where = set_to(database__url=own_postgres.url)
    assert run(tmp_path, "db", "upgrade", *where).status == 0
    settings = own_postgres.folder / "data" / "postgresql.conf"
    with settings.open("a") as file:
        file.write("full_page_writes = off\n")
    await own_postgres.stop()
    await own_postgres.start()
    says = "the log is not durable: {} is off, needs on; refusing to start"
    assert_refused(run(tmp_path, "serve", *where), says.format("full_page_writes"))
    with settings.open("a") as file:
        file.write("full_page_writes = on\n")
    monkeypatch.setitem(postgres.SETTINGS, "fsync", "off")  # the command line of our servers goes over their file
    await own_postgres.stop()
    await own_postgres.start()
    assert_refused(run(tmp_path, "serve", *where), says.format("fsync"))


@pytest.mark.parametrize("command", [["serve"], ["config", "check"]], ids=" ".join)
def test_no_tenants_are_refused(command: list[str], tmp_path: Path) -> None:
    """A service whose every answer would be 404 does not start, and the line says what to set."""
    assert_refused(run(tmp_path, *command, config=""), r"tenants: none is set, .*tenants\.<slug>\.webhook_secrets.*")


def test_unknown_role_is_refused(tmp_path: Path) -> None:
    """A misspelt role is named, beside those that exist."""
    done = run(tmp_path, "serve", "--roles", "receiver,rely")
    assert_refused(done, "--roles: unknown rely; there are receiver, relay, consumer, backfill")


def test_relay_alone_without_kafka_is_refused(tmp_path: Path) -> None:
    """A process that would have nothing to do does not start."""
    assert_refused(run(tmp_path, "serve", "--roles", "relay"), r"roles: the relay needs kafka\.bootstrap_servers")


@pytest.mark.parametrize("command", [["serve"], ["config", "show"]], ids=" ".join)
def test_all_mistakes_are_said_at_once(command: list[str], tmp_path: Path) -> None:
    """Five mistakes of three sources are five lines, each with the setting as its source spells it, and no secret."""
    config = f'{CONFIG}[kafka]\ntimout_s = 1\npassword = "{CANARY}"\n[receiver]\nbatch_limit = 0\n'
    environ = {"WHATSMS_EVENTS_PUBLIC__PORT": "eighty", "WHATSMS_EVENTS_KAFKA__USRNAME": CANARY}
    done = run(tmp_path, *command, config=config, environ=environ)
    assert_refused(
        done,
        r"kafka\.timout_s: no such setting; did you mean kafka\.timeout_s\?",
        r"WHATSMS_EVENTS_KAFKA__USRNAME: no such setting; did you mean WHATSMS_EVENTS_KAFKA__USERNAME\?",
        r"WHATSMS_EVENTS_PUBLIC__PORT: should be a valid integer.*",
        r"receiver\.batch_limit: should be greater than or equal to 1",
        r"kafka\.password: is of no use without SASL; .*",
    )
    assert CANARY not in "".join(done.err)


@pytest.mark.parametrize("command", [["serve"], ["config", "check"]], ids=" ".join)
def test_files_that_are_no_certificates_are_refused(command: list[str], tmp_path: Path) -> None:
    """A CA file, certificate or key that cannot be used is named with its setting, and nothing it holds is shown."""
    authority = trustme.CA()
    ours, another = (authority.issue_cert("ours.example"), authority.issue_cert("another.example"))
    files = {name: tmp_path / name for name in ("text", "empty", "ours.pem", "another.key", "key")}
    files["text"].write_text(f"-----BEGIN CERTIFICATE-----\n{CANARY}\n")
    files["empty"].touch()
    ours.cert_chain_pems[0].write_to_path(str(files["ours.pem"]))
    another.private_key_pem.write_to_path(str(files["another.key"]))
    ours.private_key_pem.write_to_path(str(files["key"]))
    tls = {
        "database__url": "postgresql://u@db.example/n",
        "database__tls": "true",
        "kafka__bootstrap_servers": "kafka.example:9093",
        "kafka__security_protocol": "SSL",
    }

    def given(database_ca: str, ca: str, cert: str, **key: str) -> list[str]:
        names = {"database__tls_ca_file": database_ca, "kafka__ca_file": ca, "kafka__cert_file": cert, **key}
        return set_to(**tls, **{name: files[file] for name, file in names.items()})

    no_certificate = r"{}: the file \S+ holds no certificate in PEM form"
    assert_refused(
        run(tmp_path, *command, *given("text", "empty", "text")),
        no_certificate.format(r"database\.tls_ca_file"),
        no_certificate.format(r"kafka\.ca_file"),
        no_certificate.format(r"kafka\.cert_file"),
    )
    no_key = r"{}: the file \S+ does not hold the certificate's private key in PEM form, without a passphrase"
    assert_refused(
        run(tmp_path, *command, *given("ours.pem", "ours.pem", "ours.pem")), no_key.format(r"kafka\.cert_file")
    )
    assert_refused(
        run(tmp_path, *command, *given("key", "ours.pem", "ours.pem", kafka__key_file="another.key")),
        no_certificate.format(r"database\.tls_ca_file"),
        no_key.format(r"kafka\.key_file"),
    )
    good = given("ours.pem", "ours.pem", "ours.pem", kafka__key_file="key")
    advice, server, *_kept, verdict = run(tmp_path, "config", "check", *good).out
    assert (advice, verdict) == (NO_KEY, "the configuration can be used")
    assert server.startswith("database.url: the log database at db.example:5432/n cannot be used")


@pytest.mark.parametrize("command", [["serve"], ["demo"], ["config", "check"]], ids=" ".join)
def test_a_file_where_the_data_folder_belongs_is_refused(command: list[str], tmp_path: Path) -> None:
    """A data_dir that is a file, or below one, is named before anything is made."""
    (tmp_path / "file").touch()
    done = run(tmp_path, *command, *set_to(data_dir="file/below"))
    assert_refused(done, re.escape(f"data_dir: {tmp_path / 'file'} is a file, not a folder"))


@pytest.mark.parametrize("command", [["serve"], ["demo"]], ids=" ".join)
def test_data_folder_that_cannot_be_made_is_refused(command: list[str], tmp_path: Path) -> None:
    """Where the system lets nobody make the folder, also not root, one line names it and status is 2."""
    done = run(tmp_path, *command, *set_to(data_dir="/proc/nowhere"))
    assert_refused(done, r".*/proc/nowhere.*: [Nn]o such file or directory")


def test_topics_create_without_kafka_is_refused(tmp_path: Path) -> None:
    """`topics create` needs to know where Kafka is."""
    assert_refused(run(tmp_path, "topics", "create"), r"kafka\.bootstrap_servers: is not set")


# What is wrong with the call: status 2.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serv"], 'Unknown command "serv"'),
        (["parked", "lst"], 'Unknown command "lst"'),
        (["serve", "--role", "relay"], "Unknown option: --role"),
        (["demo", "--seconds", "0"], "--seconds. Must be > 0"),
        (["demo", "--rate", "-3"], "--rate. Must be > 0"),
        (["parked", "list", "--limit", "0"], "--limit. Must be >= 1"),
        (["parked", "show", "17"], "17: neither the id of a delivery nor the place of an event"),
        (["parked", "discard"], "name one of `parked list`, or give --reason"),
        (["parked", "show"], "NAME requires an argument"),
        (["config", "show", "--set", "public.port"], "--set public.port: write it as NAME=VALUE"),
        (["config", "show", "--config", "nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_calls_that_make_no_sense_are_refused(words: list[str], says: str, tmp_path: Path) -> None:
    """An unknown command, option or value is said on standard error; status is 2, and nothing was done."""
    done = run(tmp_path, *words)
    assert (done.status, done.out) == (2, [])
    assert says in "\n".join(done.err)
    assert not (tmp_path / "var").exists()


# What may work another time: status 1.


@pytest.mark.parametrize("section", ["public", "private"])
def test_taken_port_is_named_with_its_setting(section: str, tmp_path: Path) -> None:
    """Where somebody has the port, the one line that is no log line names address and setting; status is 1."""
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, "serve", *set_to(**{f"{section}__port": port}))
    assert (done.status, done.out) == (1, [])
    said = [line for line in done.err if not line.startswith("{")]
    assert said == [f"cannot listen on {HOST}:{port}: address already in use; see {section}.host and {section}.port"]


def test_database_that_is_away_is_named(tmp_path: Path) -> None:
    """Where nobody listens at database.url, a command names it in one line, and its status is 1."""
    port = free_port()
    done = run(tmp_path, "parked", "list", *set_to(database__url=f"postgresql://somebody@{HOST}:{port}/events"))
    assert (done.status, done.out) == (1, [])
    (line,) = [line for line in done.err if not line.startswith("{")]
    assert line.startswith(f"StorageUnavailableError: the log database at {HOST}:{port}/events cannot be used: ")
    assert "ConnectionRefusedError" in line


def test_kafka_that_is_away_is_named(tmp_path: Path) -> None:
    """Where nobody listens at kafka.bootstrap_servers, `topics create` names it in one line; status is 1."""
    where = f"{HOST}:{free_port()}"
    done = run(tmp_path, "topics", "create", *set_to(kafka__bootstrap_servers=where, kafka__timeout_s=2))
    assert (done.status, done.out) == (1, [])
    (line,) = done.err
    assert line.startswith(f"BrokerUnavailableError: {where}: creating topics: ")


# What works: status 0.


def test_config_show_says_where_each_value_comes_from_and_no_secret(tmp_path: Path) -> None:
    """`config show` prints TOML with the origin of each setting; secrets of every source are stars."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "private__token").write_text(CANARY)
    environ = {
        "WHATSMS_EVENTS_SECRETS_DIR": "secrets",
        "WHATSMS_EVENTS_LOGS__LEVEL": "debug",
        "WHATSMS_EVENTS_TENANTS__ACME__API_KEY": CANARY,
    }
    done = run(tmp_path, "config", "show", *set_to(public__port=9000), environ=environ)
    assert (done.status, done.err) == (0, [])
    for line in (
        'host = "127.0.0.1"  # file',
        "port = 9000  # flag",
        'token = "********"  # secret file',
        'level = "debug"  # environment',
        'api_key = "********"  # environment',
        'current = "********"  # file',
        "timeout_s = 10.0  # default",
        "# bootstrap_servers is not set",
    ):
        assert line in done.out
    text = "\n".join(done.out)
    assert CANARY not in text
    assert SECRET not in text
    assert tomllib.loads(text)["public"]["port"] == 9000


def test_config_check_says_that_it_can_be_used(tmp_path: Path) -> None:
    """A good configuration is status 0; what deserves a second look, and what has no end, are lines before that."""
    ends = set_to(retention__data_days="365", retention__texts_days="365")
    kept = ["retention.parked_days: what is parked is kept for ever"]
    key = set_to(tenants__acme__api_key="sk_live_0123456789")
    assert run(tmp_path, "config", "check", *key, *ends) == Done(0, ["the configuration can be used"], [])
    assert run(tmp_path, "config", "check", *ends) == Done(0, [NO_KEY, "the configuration can be used"], [])
    parked = set_to(retention__parked_days="0")
    assert run(tmp_path, "config", "check", *key, *ends, *parked).out == [*kept, "the configuration can be used"]
    done = run(tmp_path, "config", "check", *key, *ends, *set_to(database__url="postgresql://u@db.example/n"))
    assert (done.status, done.err) == (0, [])
    *said, verdict = done.out
    assert [line.split(":")[0] for line in said] == ["database.tls", "database.url"], "the server is not there"
    assert verdict == "the configuration can be used"


def test_db_upgrade_twice_is_like_once(database_url: str, tmp_path: Path) -> None:
    """`db upgrade` makes log and projection ready, and does nothing where they are; it makes no SQLite file."""
    if database_url.startswith("sqlite"):
        make_log(tmp_path)
    for _ in range(2):
        done = run(tmp_path, "db", "upgrade", *set_to(database__url=database_url))
        assert done == Done(0, ["log and projection are at head"], [])
    assert run(tmp_path, "parked", "list", *set_to(database__url=database_url)) == Done(0, [], [])


def test_standard_output_is_for_data(tmp_path: Path) -> None:
    """A command that says nothing of log lines has none of them on standard output: a warning goes to the other."""
    code = (
        "import structlog\nfrom whatsms_events.cli import app as cli\n"
        "@cli.app.command\ndef told() -> int:\n"
        "    structlog.get_logger().warning('event.parked', reason='data')\n    print('data')\n    return 0\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "told"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "data\n")
    assert json.loads(done.stderr)["event"] == "event.parked"


def test_topics_are_created_once_and_compared_afterwards(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """`topics create` makes three topics, then finds them; against other settings it names each difference with
    status 1 and changes nothing.
    """
    topics = [f"{topic_prefix}.{suffix}" for suffix in TOPICS]
    where = set_to(kafka__bootstrap_servers=kafka.bootstrap, kafka__topic_prefix=topic_prefix)
    three, four = (set_to(kafka__partitions=number) for number in (3, 4))
    assert run(tmp_path, "topics", "create", *where, *three) == Done(0, [f"created {name}" for name in topics], [])
    assert run(tmp_path, "topics", "create", *where, *three) == Done(0, ["all topics are there already"], [])
    done = run(tmp_path, "topics", "create", *where, *four)
    assert (done.status, done.out, len(done.err)) == (1, [], 1)
    for name in topics:
        assert f"{name} has partitions 3, the settings ask for 4" in done.err[0]
    found = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0}).list_topics(timeout=10).topics
    assert [len(found[name].partitions) for name in topics] == [3, 3, 3]


def test_every_command_is_in_the_list_below() -> None:
    """No command is without a test of its help."""
    assert set(commands(cli.app)) == set(OWN_OPTIONS)


@pytest.mark.parametrize(("command", "own"), OWN_OPTIONS.items(), ids=OWN_OPTIONS)
def test_help_says_what_a_command_does_and_takes(command: str, own: set[str], tmp_path: Path) -> None:
    """`--help` shows the usage, a sentence, and each option with a sentence of its own."""
    done = run(tmp_path, *command.split(), "--help", config=None)
    assert (done.status, done.err) == (0, [])
    assert done.out[0].startswith(f"Usage: whatsms-events {command}")
    assert re.match(r"[A-Z].+\.", done.out[2])
    rows = [re.match(r"│ (?:\*  )?\s*(--[a-z-]+|[A-Z_]+)(?: [A-Z.]+)?\s+(\S.*?)\s*│$", line) for line in done.out]
    options = {row[1]: row[2] for row in rows if row}
    assert set(options) == own | (set() if command in UNCONFIGURED else {"--config", "--secrets-dir", "--set"})
    assert all(re.match(r"[A-Z]\w* ?.*\.", text) for text in options.values()), options


def test_help_of_the_groups_lists_every_command_with_its_sentence(tmp_path: Path) -> None:
    """`whatsms-events`, and each group, shows its commands; each says what it does."""
    listed = set()
    names = (
        "config",
        "db",
        "topics",
        "events",
        "log",
        "parked",
        "backfill",
        "replay",
        "secrets",
        "suppressions",
        "privacy",
    )
    for group in ("", *names):
        done = run(tmp_path, *group.split(), config=None)
        assert done.status == 0
        rows = [re.match(r"│ ([a-z]+) {2,}[A-Z].*\.\s*│$", line) for line in done.out]
        listed |= {f"{group} {row[1]}".strip() for row in rows if row}
    assert listed == set(OWN_OPTIONS) | set(names)
    assert run(tmp_path, "--version", config=None).out == [__version__]
