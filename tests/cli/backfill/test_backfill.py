"""Backfills as commands, against the offline twin's REST API: alone, beside a service, stopped, and refused."""

import asyncio
import json
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from cli.commands import Done, make_log, run
from servers import warm
from servers.compare import until
from servers.ports import HOST, free_port
from servers.reconciling import differences, truth
from servers.service import SECRET, SLUG, TENANT, Service
from servers.upstream import KEY, Account, account, sections, toml
from whatsms_events.backfill.worker import Progress
from whatsms_events.cli.backfill.foreground import CommandWaits, Foreground
from whatsms_events.cli.backfill.view import View
from whatsms_events.config import load as config
from whatsms_events.domain.rows import COLUMNS, Table
from whatsms_events.storage import tables
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.repair.reports import Options, RunInfo
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.twin.world import World

pytestmark = pytest.mark.process

RUN = ("backfill", "run", "--tenant", SLUG)


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Account]:
    """Give such an account, and the log that a service made before."""
    make_log(tmp_path / "var")
    async with account() as made:
        yield made


async def ran(folder: Path, *words: str, config: str) -> Done:
    """Run a command while the twin, which lives in this loop, goes on answering."""
    return await asyncio.to_thread(run, folder, *words, config=config)


async def assert_repaired(folder: Path, world: World) -> None:
    """Check that the projection shows the vendor's truth."""
    projection = await open_projection(DatabaseTarget(f"sqlite:///{folder / 'var' / 'projection.db'}"), migrate=False)
    names: tuple[Table, ...] = ("ticket", "contact", "campaign")
    for name in names:
        table = getattr(tables, name)
        async with projection.read() as connection:
            rows = (await connection.execute(table.select())).mappings().all()
        held = {row["id"]: {key: row[key] for key in ("known", *COLUMNS[name])} for row in rows}
        found = differences(held, truth(world)[name])
        # Only webhooks tell which contact is a group.
        assert [one for one in found.values() if one.keys() != {"is_group"}] == [], name
    await projection.close()


# Alone.


async def test_a_run_alone_repairs_what_was_missed_and_a_second_finds_nothing(there: Account, tmp_path: Path) -> None:
    """Without any service the command appends and applies by itself: status 0, the truth is in the projection, and the
    next run finds no drift. No list of messages was read.
    """
    done = await ran(tmp_path, *RUN, "--json", config=there.config)
    assert done.status == 0, done.err
    found = json.loads("".join(done.out))
    assert found["report"]["looked_at"].keys() == {"ticket", "contact", "campaign"}
    assert sum(found["report"]["looked_at"].values()) == there.entities
    assert sum(one["count"] for one in found["report"]["drift"]) == there.entities
    assert len(found["drift"]) == 50
    assert found["next"]
    assert {row["kind"] for row in found["drift"]} <= {"missed", "unannounced"}
    await assert_repaired(tmp_path, there.world)
    again = await ran(tmp_path, *RUN, "--json", config=there.config)
    assert again.status == 0
    report = json.loads("".join(again.out))
    assert (report["drift"], report["next"], report["report"]["drift"]) == ([], None, [])
    assert there.rest.message_list_reads == 0


async def test_the_report_is_a_table_by_entity_kind_and_age_and_names(there: Account, tmp_path: Path) -> None:
    """A person reads counts, the first 50 names and a verdict; log lines tell how it went, on standard error."""
    done = await ran(tmp_path, *RUN, config=there.config)
    assert done.status == 0
    text = "\n".join(done.out)
    counted = len(there.world.account.tickets)
    assert re.search(rf"^ ticket +missed +under_1h +{counted} *$", text, re.MULTILINE), text
    (first,) = sorted(str(one.id) for one in there.world.account.campaigns.values())[:1]
    assert re.search(rf"^ campaign +{first} +\w+ +name, status", text, re.MULTILINE), text
    assert "… and more" in text
    assert f"{there.entities} differences, repaired" in text
    events = [json.loads(line)["event"] for line in done.err]
    assert "backfill.begun" in events
    assert "backfill.finished" in events
    again = await ran(tmp_path, *RUN, config=there.config)
    assert again.out[0] == "no difference"
    assert again.out[-1].endswith(" requests; messages were not compared: backfill.messages is off")


async def test_reading_messages_is_warned_of_and_only_on_request(there: Account, tmp_path: Path) -> None:
    """With --messages the lists are read, and the line before says what that may do; `--help` says it too."""
    done = await ran(tmp_path, *RUN, "--details", "changed", "--messages", "full", "--json", config=there.config)
    assert done.status == 0
    assert done.err[0] == (
        "warning: reading messages may send read receipts to the people who wrote them (--messages full)"
    )
    assert there.rest.message_list_reads >= len(there.world.account.tickets)
    assert json.loads("".join(done.out))["report"]["looked_at"]["message"] == len(
        [one for one in there.world.account.messages.values() if one.ticket is not None]
    )
    text = re.sub(r"[\s│]+", " ", "".join((await ran(tmp_path, "backfill", "run", "--help", config="")).out))
    assert "may send read receipts to the people who wrote them" in text


async def test_too_much_that_is_gone_is_held_back_until_somebody_allows_it(there: Account, tmp_path: Path) -> None:
    """The vendor shows no contact any more: the run ends, says what it saw and how it goes on, and marks none; with
    --allow-gone it marks them all.
    """
    account = there.world.account
    for number in range(30):
        account.add_contact(name=f"C{number}", number=f"35191{number:07}", email=None)
    assert (await ran(tmp_path, *RUN, config=there.config)).status == 0
    contacts = len(account.contacts)
    account.contacts.clear()
    done = await ran(tmp_path, *RUN, "--details", "changed", config=there.config)
    assert done.status == 0
    text = " ".join(done.out)
    assert f"of {contacts} contacts {contacts} are not at the vendor and were NOT marked as gone" in text
    assert "`whatsms-events backfill run --allow-gone`" in text
    (line,) = [json.loads(one) for one in done.err if "backfill.gone_held_back" in one]
    assert (line["level"], line["extra"], line["missed"], line["held"]) == ("error", contacts, 0, contacts)
    allowed = await ran(tmp_path, *RUN, "--details", "changed", "--allow-gone", "--json", config=there.config)
    found = json.loads("".join(allowed.out))
    assert found["report"]["held_back"] == {}
    assert found["options"]["allow_gone"] is True
    assert [one["count"] for one in found["report"]["drift"] if one["kind"] == "extra"] == [contacts]


# Stopped, and gone on with.


async def test_ctrl_c_stops_politely_and_the_next_run_goes_on(there: Account, tmp_path: Path) -> None:
    """SIGINT in the middle: status 1, a line that says how it goes on, `status` shows how far it is, and the next run
    does the rest and not all of it again.
    """
    slowly = ("--config", "slow.toml", "--set", "backfill.requests_per_minute=1200")
    process = await warm.spawn((*RUN, *slowly), _folder(tmp_path, there.config))
    template = ("GET", "/tickets/{id}")
    await until(lambda: there.rest.counts[template] + there.rest.counts["GET", "/contacts/{id}"] > 20, 30, "details")
    process.send_signal(signal.SIGINT)
    status, out, err = await process.ended()
    assert (status, out) == (1, b"")
    says = err.decode().splitlines()
    assert says[-2] == "stopped"
    assert says[-1].endswith(f"`whatsms-events backfill run --tenant {SLUG}` goes on from there")
    before = there.rest.counts.total()
    (line,) = (await ran(tmp_path, "backfill", "status", config=there.config)).out
    stands = r"not finished: \w+, [1-9]\d* items left, \d+ requests, "
    assert re.match(rf"{SLUG}  run 1  reconcile \(command\)  begun \S+  {stands}", line)
    done = await ran(tmp_path, *RUN, "--json", config=there.config)
    assert done.status == 0
    assert json.loads("".join(done.out))["run"] == 1
    await assert_repaired(tmp_path, there.world)
    # A clean run: each by id, four walks of tickets, one of contacts and one of campaigns, twice where it has pages.
    assert there.rest.counts.total() < there.entities + before
    assert there.rest.counts[template] <= len(there.world.account.tickets) + 2


def _folder(folder: Path, text: str) -> Path:
    (folder / "slow.toml").write_text(text)
    return folder


async def test_a_key_that_the_vendor_refuses_stops_it(there: Account, tmp_path: Path) -> None:
    """A wrong key is status 1 with what was refused, nothing is tried again, and `status` shows it."""
    wrong = there.config.replace(KEY, "sk_test_of_somebody_else")
    done = await ran(tmp_path, *RUN, config=wrong)
    assert (done.status, done.out) == (1, [])
    assert any(line.startswith("stopped: backfill: ") and "401" in line for line in done.err), done.err
    assert there.rest.counts.total() == 1
    assert "sk_test" not in "\n".join(done.err)
    (line,) = (await ran(tmp_path, "backfill", "status", config=wrong)).out
    assert "STOPPED: " in line
    assert "401" in line


async def test_a_projection_that_nobody_feeds_is_named_and_has_a_deadline(
    there: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a Kafka that is away nothing is applied: it says that it waits, for what, and gives up in the end."""
    flags = {"kafka.bootstrap_servers": f"{HOST}:{free_port()}", "kafka.timeout_s": 0.5}
    (tmp_path / "whatsms.toml").write_text(there.config)
    loaded = config.load(tmp_path / "whatsms.toml", environ={}, flags=flags)
    with View(SLUG) as view:
        done = await Foreground(loaded, SLUG, Options(), view, waits=CommandWaits(stuck_s=0.2, behind_s=1.5)).run()
    assert isinstance(done, str)
    assert "waits for the projection, which shows events up to" in done
    assert "is a relay running" in done
    capsys.readouterr()


def test_without_a_terminal_a_line_says_how_far_it_is_every_five_seconds() -> None:
    """Nobody watches a bar in a log: a line with the phase, counts and what it waits for, and not one for each look."""
    at = 0.0
    found: Counter[tuple[str, str]] = Counter({("ticket", "stale"): 2, ("contact", "missed"): 1})
    progress = Progress(kind="reconcile", phase="tickets", requests=7, shown=40, remaining=12, found=found)
    with View(SLUG, monotonic=lambda: at) as view, capture_logs() as logs:
        for step in range(25):  # as often as the command looks
            at = step * 0.5
            view.show(progress, "waits")
    line = {
        "event": "backfill.progress",
        "log_level": "info",
        "tenant": SLUG,
        "phase": "tickets",
        "requests": 7,
        "shown": 40,
        "remaining": 12,
        "drift": 3,
        "reason": "waits",
    }
    assert logs == [line, line]


# Beside others.


async def test_it_runs_beside_a_service_which_applies(there: Account, tmp_path: Path) -> None:
    """Beside a `serve` the command's own consumer stands by; what it found shows in the service's read API, and the
    commands print as JSON what that API answers, neither less nor more.
    """
    on_command = {"interval_s": 0, "outage_s": 0, "repair_interval_s": 0}
    settings = sections(there.url, backfill=on_command)
    service = Service(tmp_path / "service", roles="receiver,consumer,backfill", settings=settings)
    await service.start()
    done = await ran(service.folder, *RUN, "--json", config=service.config.read_text())
    assert done.status == 0, done.err
    async with aiohttp.ClientSession() as session:
        account = there.world.account
        ticket, contact = next(iter(account.tickets.values())).id, next(iter(account.contacts.values())).id
        for path in (f"tickets/{ticket}", f"contacts/{contact}"):
            url = f"{service.private_url}/api/v1/{SLUG}/{path}"
            async with session.get(url) as answer:
                assert answer.status == 200, url
                assert (await answer.json())["known"]
        async with session.get(f"{service.private_url}/api/v1/{SLUG}/backfill") as answer:
            runs = await answer.json()
        async with session.get(f"{service.private_url}/api/v1/{SLUG}/drift") as answer:
            drift = await answer.json()
    status = await ran(service.folder, "backfill", "status", "--json", config=service.config.read_text())
    await service.stop()
    (found,) = runs["runs"]
    assert json.loads("".join(done.out)) == found | {"drift": drift["drift"], "next": drift["next"]}
    assert json.loads("".join(status.out)) == {SLUG: runs}
    assert found["progress"] is None


class Waiter(View):
    """Sees that it waits; each time until `moves` are used up, the other process's run goes on."""

    def __init__(self, log: Path, moves: int, over: asyncio.Event) -> None:
        super().__init__(SLUG)
        self.waited: list[RunInfo | None] = []
        self._log, self._moves, self._over = log, moves, over

    def show_waiting(self, other: RunInfo | None) -> None:
        """Note it, and move the run on."""
        super().show_waiting(other)
        self.waited.append(other)
        if len(self.waited) >= self._moves:
            self._over.set()
            return
        with sqlite3.connect(self._log) as connection:
            connection.execute("UPDATE backfill_run SET updated_at = updated_at + 1")
        connection.close()


@pytest.mark.parametrize("ends", [True, False])
async def test_it_waits_as_long_as_the_other_run_goes_on(ends: bool, there: Account, tmp_path: Path) -> None:
    """With --wait it waits while another process's run saves something, then takes that run up and does its own; where
    nothing is saved for too long it ends and says so.
    """
    waits = CommandWaits(lock_s=0.0, other_s=3600.0 if ends else 1.0, tick_s=0.05)
    file = tmp_path / "var" / "log.db"
    log, over = await open_log(DatabaseTarget(f"sqlite:///{file}"), migrate=False), asyncio.Event()
    lock = RoleLock(log, f"backfill.{SLUG}")
    assert await lock.take()
    await Checkpoints(log).begin(TENANT, "reconcile", "schedule", Options(), datetime.now(UTC))
    (tmp_path / "whatsms.toml").write_text(there.config)
    loaded = config.load(tmp_path / "whatsms.toml", environ={})

    async def gives_up_the_lock() -> None:
        await over.wait()
        if ends:
            await lock.release()

    with Waiter(file, 5, over) as view:
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            tasks.create_task(gives_up_the_lock())
            running = Foreground(loaded, SLUG, Options(messages="full"), view, wait=True, waits=waits).run()
            waiting = tasks.create_task(running)
    done = waiting.result()
    await lock.release()
    await log.close()
    assert len(view.waited) >= 5
    assert {one.run.cause for one in view.waited if one is not None} == {"schedule"}
    if ends:
        assert not isinstance(done, str), done
        assert (done.info.run.number, done.info.run.cause) == (2, "command")
    else:
        assert isinstance(done, str)
        assert re.search(r": a reconcile \(schedule\) that began \S+; it has saved nothing for 0 minutes$", done), done


async def test_it_waits_for_the_services_own_run(there: Account, tmp_path: Path) -> None:
    """While the first reconcile of a `serve` goes on, `backfill run --wait` says that it waits, ends with 0, and has
    made a run of its own, which finds nothing more. No --tenant is needed where there is one.
    """
    settings = sections(there.url, backfill={"requests_per_minute": 600, "outage_s": 0, "repair_interval_s": 0})
    service = Service(tmp_path / "service", roles="receiver,consumer,backfill", settings=settings)
    await service.start()
    await until(lambda: there.rest.counts.total() > 0, 60, "the service reads")
    words = ("backfill", "run", "--wait", "--json", "--set", "backfill.requests_per_minute=60000")
    done = await ran(service.folder, *words, config=service.config.read_text())
    await service.stop()
    assert done.status == 0, done.err
    found = json.loads("".join(done.out))
    assert (found["run"], found["cause"], found["drift"]) == (2, "command", [])
    (first, *_) = [line for line in map(json.loads, done.err) if line["event"] == "backfill.waiting"]
    assert (first["tenant"], first["kind"], first["cause"]) == (SLUG, "reconcile", "initial")


async def test_where_another_process_works_on_the_tenant_it_says_so(there: Account, tmp_path: Path) -> None:
    """The lock of the tenant's backfill is held elsewhere: status 1, and a line that says by whom."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'var' / 'log.db'}"), migrate=True)
    lock = RoleLock(log, f"backfill.{SLUG}")
    assert await lock.take()
    done = await ran(tmp_path, *RUN, config=there.config)
    await lock.release()
    await log.close()
    assert (done.status, done.out) == (1, [])
    assert done.err[-1] == (
        f"another process, a `serve` or a `backfill run`, works on {SLUG} now; "
        "--wait waits for its end, `whatsms-events backfill status` shows how far it is"
    )
    assert there.rest.counts.total() == 0


# The call.


def test_a_tenant_that_cannot_be_read_is_a_wrong_call(tmp_path: Path) -> None:
    """An unknown slug and a tenant without a key are status 2, with a line that says what to do."""
    text = toml("http://127.0.0.1:9/api/v2")
    for words in ((*RUN[:-1], "nobody"), ("backfill", "status", "--tenant", "nobody")):
        done = run(tmp_path, *words, config=text)
        assert (done.status, done.err) == (2, [f"--tenant: unknown nobody; there are {SLUG}"])
    other = f'[tenants.other]\ntenant_id = "t-2"\nwebhook_secrets = {{ current = "{SECRET}" }}\n'
    done = run(tmp_path, "backfill", "run", config=text + other)
    assert (done.status, done.out, done.err) == (2, [], [f"--tenant: say which of {SLUG}, other"])
    unkeyed = text.replace(f'api_key = "{KEY}"\n', "")
    done = run(tmp_path, *RUN, config=unkeyed)
    assert done.status == 2
    assert done.err == [f"tenants.{SLUG}.api_key: is not set, and without it nothing can be read"]


async def test_a_run_is_stopped_whichever_process_has_it(there: Account, tmp_path: Path) -> None:
    """`backfill stop` ends the run that another process left unfinished, `status` says who stopped it, a second stop
    finds none, and the next run begins anew and repairs everything.
    """
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'var' / 'log.db'}"), migrate=False)
    await Checkpoints(log).begin(TENANT, "reconcile", "schedule", Options(), datetime.now(UTC))
    await log.close()
    assert run(tmp_path, "backfill", "stop", config=there.config).out == [f"run 1 of {SLUG} is stopped"]
    (line,) = run(tmp_path, "backfill", "status", config=there.config).out
    assert line.endswith("stopped by command")
    again = run(tmp_path, "backfill", "stop", config=there.config)
    assert again.status == 1
    assert f"no run of {SLUG} is under way" in again.err[-1]
    done = await ran(tmp_path, *RUN, config=there.config)
    assert done.status == 0
    assert run(tmp_path, "backfill", "status", config=there.config).out[0].startswith(f"{SLUG}  run 2")


async def test_status_asks_the_database_alone(there: Account, tmp_path: Path) -> None:
    """It shows the last runs as lines and as JSON, and that a tenant never had one, without a single request."""
    none = json.loads(run(tmp_path, "backfill", "status", "--json", config=there.config).out[0])
    assert none == {SLUG: {"runs": [], "next": None}}
    assert run(tmp_path, "backfill", "status", config=there.config).out == [f"{SLUG}  never ran"]
    await ran(tmp_path, *RUN, config=there.config)
    requests = there.rest.counts.total()
    (line,) = run(tmp_path, "backfill", "status", "--tenant", SLUG, config=there.config).out
    assert re.fullmatch(
        rf"{SLUG}  run 1  reconcile \(command\)  begun \S+  finished after \d+ s  {requests} requests  "
        rf"{there.entities} differences, repaired",
        line,
    )
    shown = json.loads(run(tmp_path, "backfill", "status", "--json", config=there.config).out[0])
    assert [one["run"] for one in shown[SLUG]["runs"]] == [1]
    assert there.rest.counts.total() == requests
