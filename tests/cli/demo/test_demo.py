"""The demo as a newcomer runs it, and its proof: a delivery that was lost, or a repair that was not, fails it."""

import asyncio
import fcntl
import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from servers import warm
from servers.compare import until
from servers.kafka import RunningKafka
from whatsms_events.backfill.worker import Progress
from whatsms_events.cli.demo import play as demo
from whatsms_events.cli.demo import view
from whatsms_events.cli.demo.repair import Repair
from whatsms_events.cli.demo.settings import prepared
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import EventType
from whatsms_events.service.stores import opened_stores
from whatsms_events.storage.reads import RowView
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.twin.account import Account
from whatsms_events.twin.ledger import Attempt, Ledger
from whatsms_events.twin.rest.faults import RestFaults
from whatsms_events.twin.rest.server import Rest

pytestmark = pytest.mark.process

KEYS = {
    *("sent", "accepted", "duplicates", "rejected", "parked", "dropped", "log_events", "observed", "applied"),
    *("tickets", "messages", "contacts", "campaigns", "acks"),
    *("missing", "unexpected", "repaired", "drift", "differing", "trouble"),
}


def run(folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run `whatsms-events demo` in `folder`; return its status, its JSON and what it said on standard error."""
    done = warm.run(["demo", "--seconds", "4", "--json", *words], folder)
    return done.returncode, json.loads(done.stdout), done.stderr


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an SQLite file; what is written is committed."""
    with closing(sqlite3.connect(path)) as file, file:
        yield file


async def play(
    settings: Settings,
    *,
    seconds: float = 3.0,
    stop: asyncio.Event | None = None,
    make_rest: Callable[[Account], Rest] = demo.usual_rest,
) -> demo.Stage:
    """Run the demo in this process."""
    stop = stop or asyncio.Event()
    return await demo.play(settings, stop, seconds=seconds, rate=200, seed=1, make_rest=make_rest)


class Faulty:
    """Makes the demo's REST half with these faults, and keeps what it made."""

    def __init__(self, faults: RestFaults) -> None:
        self.faults = faults
        self.made: list[Rest] = []

    def __call__(self, account: Account) -> Rest:
        """Make it."""
        self.made.append(demo.usual_rest(account))
        self.made[0].faults = self.faults
        return self.made[0]


def check(status: int, summary: dict[str, Any]) -> None:
    """Check that a run proved itself and shows all that happens to deliveries."""
    assert status == 0, summary
    assert summary.keys() >= KEYS
    assert summary["accepted"] > 100
    # An accepted delivery whose answer was lost is counted as a duplicate, so the log may hold a few more.
    assert summary["log_events"] >= summary["accepted"]
    assert summary["applied"] == summary["log_events"]
    assert all(summary[name] > 0 for name in ("duplicates", "rejected", "parked", "tickets", "messages", "contacts"))
    assert summary["campaigns"] > 0
    assert sum(summary["acks"].values()) > 0
    # What was dropped on purpose was found, and nothing is left that differs.
    assert all(summary[name] > 0 for name in ("dropped", "observed", "repaired"))
    assert sum(sum(kinds.values()) for kinds in summary["drift"].values()) == summary["repaired"]
    assert summary["differing"] == summary["missing"] == summary["unexpected"] == 0
    assert summary["trouble"] == ""


def test_the_demo_proves_that_nothing_accepted_was_lost(tmp_path: Path) -> None:
    """`demo --seconds --json` ends by itself with 0; JSON is alone on standard output, URLs and rates on the other."""
    status, summary, said = run(tmp_path)
    check(status, summary)
    assert not summary["kafka"]
    assert "/webhooks/demo" in said
    assert "accepted" in said
    with opened(tmp_path / "var" / "demo" / "log.db") as file:
        types = {row[0] for row in file.execute("SELECT DISTINCT type FROM event_log WHERE origin = 'webhook'")}
        found = {row[0] for row in file.execute("SELECT DISTINCT type FROM event_log WHERE origin <> 'webhook'")}
    assert len(types) == 9
    assert all(name.endswith(".observed") for name in found)


def test_the_demo_runs_through_kafka_where_it_is_set(kafka: RunningKafka, tmp_path: Path) -> None:
    """With kafka.bootstrap_servers the same run goes through the broker; its topics are made by itself."""
    status, summary, _said = run(tmp_path, "--set", f"kafka.bootstrap_servers={kafka.bootstrap}")
    check(status, summary)
    assert summary["kafka"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, demo.Stage]]:
    """Run the demo once in this process, for tests that look at what it leaves."""
    with prepared(Settings(data_dir=tmp_path_factory.mktemp("played"))) as settings:
        yield settings, asyncio.run(play(settings))


@pytest.fixture
def copied(played: tuple[Settings, demo.Stage], tmp_path: Path) -> tuple[Settings, demo.Stage]:
    """Give what that run left, in files that may be harmed."""
    settings, stage = played
    shutil.copytree(settings.data_dir, tmp_path / "demo")
    return settings.model_copy(update={"data_dir": tmp_path / "demo"}), stage


async def test_the_proof_fails_where_ledger_and_log_differ(copied: tuple[Settings, demo.Stage]) -> None:
    """One accepted hash that the log lacks, one row nobody sent, or one event not applied: the summary is not ok."""
    settings, stage = copied
    with opened(settings.data_dir / "log.db") as file:
        rows = {bytes(row[0]) for row in file.execute("SELECT sha256 FROM event_log WHERE origin = 'webhook'")}
        parked = {bytes(row[0]) for row in file.execute("SELECT sha256 FROM parked_delivery")}

    async def proved(accepted: set[bytes]) -> bool:
        ledger = Ledger()
        ledger.accepted |= accepted
        ledger.parked |= parked
        return (await demo.summarize(settings, replace(stage, ledger=ledger), 1.0, kafka=False)).ok

    assert await proved(rows)
    assert not await proved(rows | {b"\0" * 32})
    assert not await proved(rows - {next(iter(rows))})
    with opened(settings.data_dir / "projection.db") as file:
        file.execute("UPDATE projection SET applied_through = applied_through - 1")
    assert not await proved(rows)


async def test_an_observation_is_no_delivery(copied: tuple[Settings, demo.Stage]) -> None:
    """What the repair appended is counted by itself; a row that claims to be a webhook's and was never sent shows."""
    settings, stage = copied
    before = await demo.summarize(settings, stage, 1.0, kafka=False)
    assert before.ok
    assert before.log_events >= before.accepted + before.observed
    assert before.observed == before.repaired
    with opened(settings.data_dir / "log.db") as file:
        file.execute("UPDATE event_log SET origin = 'webhook' WHERE position = (SELECT MAX(position) FROM event_log)")
    after = await demo.summarize(settings, stage, 1.0, kafka=False)
    assert (after.ok, after.missing, after.unexpected) == (False, 0, 1)
    assert after.observed == before.observed - 1


FIRST = "WHERE id = (SELECT MIN(id) FROM {})"
IN_TICKET = "WHERE id = (SELECT MIN(id) FROM message WHERE ticket_id <> '')"
OURS = "WHERE id = (SELECT MIN(id) FROM message WHERE ticket_id <> '' AND from_me AND ack > 1)"


@pytest.mark.parametrize(
    ("harm", "differing"),
    [
        (f"UPDATE ticket SET status = 'lost' {FIRST.format('ticket')}", 1),
        (f"UPDATE ticket SET user_id = 'nobody' {FIRST.format('ticket')}", 1),
        (f"UPDATE ticket SET known = false {FIRST.format('ticket')}", 1),
        (f"DELETE FROM ticket {FIRST.format('ticket')}", 1),
        (f"UPDATE contact SET name = name || '.' {FIRST.format('contact')}", 1),
        (f"UPDATE contact SET extra_info = '[{{}}]' {FIRST.format('contact')}", 1),
        (f"UPDATE contact SET gone = true {FIRST.format('contact')}", 1),
        (f"UPDATE contact SET id = 'somebody' {FIRST.format('contact')}", 2),
        (f"UPDATE contact SET id = 'somebody', gone = true {FIRST.format('contact')}", 1),
        (f"UPDATE campaign SET sent_count = sent_count + 1 {FIRST.format('campaign')}", 1),
        (f"UPDATE message SET body = 'lost' {IN_TICKET}", 1),
        (f"UPDATE message SET ticket_id = 'elsewhere' {IN_TICKET}", 1),
        (f"UPDATE message SET ack = ack - 1 {OURS}", 1),
        (f"DELETE FROM message {IN_TICKET}", 1),
        ("UPDATE message SET body = 'lost' WHERE ticket_id IS NULL", 0),  # of a campaign: no list shows it
        ("UPDATE ticket SET tenant = 'another'", None),
    ],
)
async def test_the_proof_fails_where_the_projection_differs(
    copied: tuple[Settings, demo.Stage], harm: str, differing: int | None
) -> None:
    """One row that is not as the twin's account has it, one lacking, one too many: counted, and not ok."""
    settings, stage = copied
    with opened(settings.data_dir / "projection.db") as file:
        assert file.execute(harm).rowcount > 0
    summary = await demo.summarize(settings, stage, 1.0, kafka=False)
    assert summary.differing == (len(stage.world.account.tickets) if differing is None else differing)
    assert summary.ok == (summary.differing == 0)


async def test_a_repair_that_fails_is_no_success(tmp_path: Path) -> None:
    """Where the REST half refuses, the demo ends at once, says why, and is not ok, though nothing accepted was lost."""
    with prepared(Settings(data_dir=tmp_path)) as settings:
        stage = await play(settings, make_rest=Faulty(RestFaults(unauthorized=1.0)))
        summary = await demo.summarize(settings, stage, 1.0, kafka=False)
    assert not summary.ok
    assert summary.trouble == "GET /contacts: 401"
    assert summary.missing == summary.unexpected == summary.repaired == summary.observed == 0
    assert summary.differing > 0
    assert f"{summary.differing} entities DIFFER" in printed(summary)
    assert "the repair did not finish: GET /contacts: 401" in printed(summary)
    assert not (await demo.summarize(settings, replace(stage, repair=Repair(settings, "demo")), 1.0, kafka=False)).ok


async def test_a_vendor_on_a_bad_day_is_repaired_from_all_the_same(tmp_path: Path) -> None:
    """Some answers of the REST half that fail are asked for again."""
    faulty = Faulty(RestFaults(error=0.03, html_502=0.03))
    made = faulty.made
    with prepared(Settings(data_dir=tmp_path)) as settings:
        summary = await demo.summarize(settings, await play(settings, make_rest=faulty), 1.0, kafka=False)
    assert made[0].statuses[500] + made[0].statuses[502] > 0
    assert (summary.ok, summary.differing) == (True, 0)


async def test_stopping_during_the_repair_is_no_success(tmp_path: Path) -> None:
    """A Ctrl-C during the repair ends it; the summary comes, and says that it had not finished."""
    faulty = Faulty(RestFaults(slow=1.0, slow_s=60.0))
    made = faulty.made
    stop = asyncio.Event()
    with prepared(Settings(data_dir=tmp_path)) as settings:
        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(play(settings, seconds=1.0, stop=stop, make_rest=faulty))
            await until(lambda: made and made[0].counts, 30, "the repair's first request")
            stop.set()
        summary = await demo.summarize(settings, playing.result(), 1.0, kafka=False)
    assert not summary.ok
    assert summary.trouble == "it was stopped"


async def test_the_console_of_a_running_demo_has_what_was_missed_and_repaired(tmp_path: Path) -> None:
    """While the twin sends, a reconcile of the service itself finds what was dropped, each with its time, which is what
    the pages Repair and Now show; the end repairs what was dropped since, and the proof holds.
    """
    stop = asyncio.Event()
    with prepared(Settings(data_dir=tmp_path)) as settings:

        async def lost() -> list[RowView]:
            async with opened_stores(settings, migrate=True) as stores:
                runs = await Reports(stores.log).runs(settings.tenants["demo"].tenant_id, 10)
                ended = [one.run.number for one in runs if one.finished_at is not None and one.run.cause == "demo"]
                pages = [await Reports(stores.log).drift(number, kind="missed", limit=10) for number in ended]
            return [row for page in pages for row in page.rows]

        async with asyncio.TaskGroup() as tasks:
            playing = tasks.create_task(
                demo.play(settings, stop, seconds=None, rate=30, seed=1, compare_s=2),
            )
            await until(lost, 240, "a reconcile beside the sending found what was missed")
            first = (await lost())[0]
            stop.set()
        summary = await demo.summarize(settings, playing.result(), 1.0, kafka=False)
    assert first["entity"] == "message"
    assert first["found_at"] is not None
    assert (summary.ok, summary.differing, summary.trouble) == (True, 0, "")


def test_ctrl_c_ends_the_sending_and_the_repair_comes_all_the_same(tmp_path: Path) -> None:
    """Without --seconds the demo goes on until Ctrl-C; then what was dropped is repaired, and the summary is ok."""
    line = [sys.executable, "-m", "whatsms_events", "demo", "--json"]
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert any("accepted" in said and "sent 0" not in said for said in running.stderr)
        running.send_signal(signal.SIGINT)
        out, _said = running.communicate(timeout=300)
    summary = json.loads(out)
    assert (running.returncode, summary["ok"], summary["differing"]) == (0, True, 0)


def printed(summary: view.Summary) -> str:
    """Return the summary as a person sees it."""
    console = Console(file=io.StringIO(), width=200)
    view.print_summary(console, summary)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_a_person_is_told_what_the_numbers_count(copied: tuple[Settings, demo.Stage]) -> None:
    """Every number has its line, the unobvious ones a note, and the verdict names what was dropped and repaired."""
    summary = await demo.summarize(*copied, 1.0, kafka=False)
    said = printed(summary).splitlines()
    named = {line.split()[0] for line in said[: said.index("")]}
    assert named == asdict(summary).keys() - {"trouble"}  # there is none
    assert all(any(line.startswith(name) and line.endswith(note) for line in said) for name, note in view.NOTES.items())
    assert f"{summary.dropped} webhooks were dropped, {summary.repaired} entities repaired" in said[-1]


@pytest.mark.parametrize("repair", [None, Progress(kind="reconcile", requests=7, shown=9, remaining=2)])
def test_the_live_view_fits_a_terminal(repair: Progress | None) -> None:
    """The table has 24 lines at most, however many types of events came; the repair shows once it has begun."""
    ledger = Ledger()
    for event_type in (*EventType, "other"):
        if not event_type.endswith(".observed"):
            ledger.record(Attempt(sha256="00" * 32, event_type=event_type, outcome="accepted", sent_at=0.0, number=1))
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(view.table(ledger, 10, 0, 5.0, repair))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert len(said.splitlines()) <= 24
    assert "dropped" in said
    assert ("7 of 9" in said) == (repair is not None)
    assert ("repair  requests 7  read 7 of 9" in view.line(ledger, 10, 0, 5.0, repair)) == (repair is not None)


def test_two_demos_do_not_share_their_files(tmp_path: Path) -> None:
    """A second demo in the same folder, or a folder that is not the demo's, is refused with status 2 and untouched."""
    mine = tmp_path / "var" / "demo"
    mine.mkdir(parents=True)
    (mine / "letters.txt").write_text("not the demo's")
    line = ["demo", "--seconds", "1", "--json"]
    refused = warm.run(line, tmp_path)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert (mine / "letters.txt").read_text() == "not the demo's"
    (mine / "letters.txt").unlink()
    with (mine / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = warm.run(line, tmp_path)
    assert refused.returncode == 2
    assert "another demo" in refused.stderr
