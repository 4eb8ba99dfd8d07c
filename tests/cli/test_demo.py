"""The demo as a newcomer runs it, and its proof: it fails when a single accepted delivery is not in the log."""

import fcntl
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers.kafka import Broker, RunningKafka
from whatsms_events.cli import demo
from whatsms_events.settings import Settings
from whatsms_events.twin.ledger import Ledger

KEYS = {
    *("sent", "accepted", "duplicates", "rejected", "parked", "log_events", "applied"),
    *("tickets", "messages", "contacts", "campaigns", "acks"),
}


def run(folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run `whatsms-events demo` in `folder`; return its status, its JSON and what it said on standard error."""
    line = [sys.executable, "-m", "whatsms_events", "demo", "--seconds", "4", "--json", *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, json.loads(done.stdout), done.stderr


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


def test_the_demo_proves_that_nothing_accepted_was_lost(tmp_path: Path) -> None:
    """`demo --seconds --json` ends by itself with 0; JSON is alone on standard output, URLs and rates on the other."""
    status, summary, said = run(tmp_path)
    check(status, summary)
    assert not summary["kafka"]
    assert "/webhooks/demo" in said
    assert "accepted" in said
    with sqlite3.connect(tmp_path / "var" / "demo" / "log.db") as file:
        types = {row[0] for row in file.execute("SELECT DISTINCT type FROM event_log")}
    file.close()
    assert len(types) == 9


def test_the_demo_runs_through_kafka_where_it_is_set(kafka: Broker | RunningKafka, tmp_path: Path) -> None:
    """With kafka.bootstrap_servers the same run goes through the broker; its topics are made by itself."""
    status, summary, _said = run(tmp_path, "--set", f"kafka.bootstrap_servers={kafka.bootstrap}")
    check(status, summary)
    assert summary["kafka"]


async def test_the_proof_fails_where_ledger_and_log_differ(tmp_path: Path) -> None:
    """One accepted hash that the log lacks, one row nobody sent, or one event not applied: the summary is not ok."""
    run(tmp_path)
    settings = Settings(data_dir=tmp_path / "var" / "demo")
    with sqlite3.connect(tmp_path / "var" / "demo" / "log.db") as file:
        rows = {bytes(row[0]) for row in file.execute("SELECT sha256 FROM event_log")}
        parked = {bytes(row[0]) for row in file.execute("SELECT sha256 FROM parked_delivery")}
    file.close()

    async def proved(accepted: set[bytes]) -> bool:
        ledger = Ledger()
        ledger.accepted |= accepted
        ledger.parked |= parked
        return (await demo.summarize(settings, ledger, 1.0, kafka=False)).ok

    assert await proved(rows)
    assert not await proved(rows | {b"\0" * 32})
    assert not await proved(rows - {next(iter(rows))})
    with sqlite3.connect(tmp_path / "var" / "demo" / "projection.db") as file:
        file.execute("UPDATE projection SET applied_through = applied_through - 1")
    file.close()
    assert not await proved(rows)


def test_two_demos_do_not_share_their_files(tmp_path: Path) -> None:
    """A second demo in the same folder, or a folder that is not the demo's, is refused with status 2 and untouched."""
    mine = tmp_path / "var" / "demo"
    mine.mkdir(parents=True)
    (mine / "letters.txt").write_text("not the demo's")
    line = [sys.executable, "-m", "whatsms_events", "demo", "--seconds", "1", "--json"]
    refused = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert (mine / "letters.txt").read_text() == "not the demo's"
    (mine / "letters.txt").unlink()
    with (mine / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert "another demo" in refused.stderr
