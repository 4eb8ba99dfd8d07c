"""`log verify` and `log copy` as an operator gives them, beside a service and without one."""

import asyncio
import json
import re
import signal
import sqlite3
import time
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from cli.commands import CONFIG, make_log, run
from servers import warm
from servers.compare import until
from servers.postgres import Postgres
from servers.service import Service
from storage.log.test_event_log import append, fill
from test_journey import see, told
from whatsms_events.storage.database import DatabaseTarget, open_log

pytestmark = pytest.mark.process

EVENTS = 20_000


def execute(file: Path, statement: str) -> None:
    """Change a database behind everybody's back."""
    with sqlite3.connect(file) as connection:
        connection.execute(statement)
    connection.close()


async def make(folder: Path, count: int) -> None:
    """Leave a log of some events in the place where a service has it."""
    log = await open_log(DatabaseTarget(make_log(folder / "var")), migrate=False)
    await fill(log, [append(number, size=200) for number in range(count)])
    await log.close()


async def test_a_check_says_what_is_right_and_what_is_not(tmp_path: Path) -> None:
    """A log that is right gets status 0; the first row that was changed is named, with status 1."""
    await make(tmp_path, 20)
    done = run(tmp_path, "log", "verify")
    assert (done.status, done.err) == (0, [])
    assert done.out[1:] == [
        "right: positions 1 to 20 (20 rows, 0 seals)",
        "not sealed yet: the last 20 positions, checked by their stored hashes alone",
    ]
    assert run(tmp_path, "log", "verify", "--after", "20").out[1:] == ["there is nothing behind position 20"]
    done = run(tmp_path, "log", "verify", "--after", "21")
    (line,) = done.out[1:]
    assert done.status == 1
    assert line.startswith("wrong at position 21 (row_missing): the log ends at position 20,")
    execute(tmp_path / "var" / "log.db", "UPDATE event_log SET raw = x'00' WHERE position = 7")
    done = run(tmp_path, "log", "verify", "--after", "2")
    assert done.status == 1
    assert done.out[1:] == [
        "right: positions 3 to 6 (4 rows, 0 seals)",
        "wrong at position 7 (hash_differs): the bytes of the row are not those of its stored hash",
    ]
    done = run(tmp_path, "log", "verify", "--json", "--head", "00ff")
    shown = json.loads(done.out[0])
    assert done.status == 1
    assert (shown["right"], shown["through"], shown["head_found"]) == (False, 6, False)
    assert shown["wrong"]["position"] == 7
    assert run(tmp_path, "log", "verify", "--head", "00ff").out[-1] == "the head that --head names was not reached"
    done = run(tmp_path, "log", "verify", "--through", "5", "--head", "00ff")
    assert (done.status, done.out[-1].startswith("wrong: no seal that was checked has the hash")) == (1, True)
    done = run(tmp_path, "log", "verify", "--head", "no hex")
    assert (done.status, done.err) == (2, ["--head: write it as `log verify` prints it"])


async def test_a_copy_that_is_killed_goes_on_where_the_target_ends(tmp_path: Path) -> None:
    """After `kill -9` in the middle of a copy the same command goes on behind the last position that the target holds,
    and the log at the end is the same.
    """
    await make(tmp_path, 1)
    many(tmp_path / "var" / "log.db", EVENTS)
    target = tmp_path / "new" / "log.db"
    await open_and_close(target)
    words = ["log", "copy", "--to", f"sqlite:///{target}"]
    (tmp_path / "whatsms.toml").write_text(CONFIG)
    copying = await warm.spawn([*words, "--config", "whatsms.toml"], tmp_path)
    lock = await asyncio.to_thread(hold, target)
    held = last_of(target)
    copying.send_signal(signal.SIGKILL)
    await copying.ended()
    lock.close()
    assert 0 < held < EVENTS
    done = run(tmp_path, *words)
    assert done.err == [f"log copy: goes on behind position {held}"]
    assert re.fullmatch(rf"log \S+: copied up to position {EVENTS}, and compared row by row", done.out[0])
    done = run(tmp_path, *words, "--finish")
    assert (done.status, last_of(target)) == (0, EVENTS)
    done = run(tmp_path, "log", "verify", "--json", "--set", f"database.url=sqlite:///{target}")
    assert json.loads(done.out[0])["rows"] == EVENTS


def many(log: Path, count: int) -> None:
    """Let a log of one event have so many."""
    with sqlite3.connect(log) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(event_log)")]
        others = ", ".join(name for name in columns if name not in ("position", "id"))
        connection.execute(
            "WITH RECURSIVE counted (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < ?) "
            f"INSERT INTO event_log (position, id, {others}) SELECT n, printf('%032x', n), {others} "
            "FROM counted, event_log WHERE position = 1",
            (count,),
        )
    connection.close()


async def open_and_close(target: Path) -> None:
    """Make an empty log, so that a reader can look at it from the beginning."""
    await (await open_log(DatabaseTarget(f"sqlite:///{target}"), migrate=True)).close()


def last_of(log: Path) -> int:
    """Return the last position of a log."""
    with sqlite3.connect(log) as connection:
        found = connection.execute("SELECT coalesce(max(position), 0) FROM event_log").fetchone()[0]
    connection.close()
    return int(found)


def hold(target: Path) -> sqlite3.Connection:
    """Wait until a copy has written, and return what locks the target against its next batch."""
    connection = sqlite3.connect(target, isolation_level=None, timeout=60, check_same_thread=False)
    end = time.monotonic() + 60
    while not connection.execute("SELECT max(position) FROM event_log").fetchone()[0]:
        assert time.monotonic() < end, "nothing is copied"
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_a_copy_goes_to_a_server_that_asks_for_a_password(own_postgres: Postgres, tmp_path: Path) -> None:
    """The password comes from a file, as the runbook says. Without it, and with a wrong one, nothing is copied and the
    server's reason is told.
    """
    await make(tmp_path, 3)
    (tmp_path / "whatsms.toml").write_text(CONFIG)
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("ALTER USER CURRENT_USER PASSWORD 'right-password'")
    (own_postgres.folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()

    async def asks_for_it() -> bool:
        return not await own_postgres.serves()  # without a password

    await until(asks_for_it, 30, "a password is needed")
    for name, text in (("wrong", "wrong-password"), ("secret", "right-password")):
        (tmp_path / name).write_text(f"{text}\n")
    words = ["log", "copy", "--config", str(tmp_path / "whatsms.toml"), "--to", own_postgres.url]
    for more in ([], ["--password-file", str(tmp_path / "wrong")]):
        done = warm.run([*words, *more], tmp_path)
        assert done.returncode != 0
        assert "password" in done.stderr
        assert "wrong-password" not in done.stderr
    done = warm.run([*words, "--password-file", str(tmp_path / "secret")], tmp_path)
    assert (done.returncode, "copied up to position 3" in done.stdout) == (0, True), done.stderr


async def test_a_log_is_moved_as_the_runbook_says(postgres_url: str, tmp_path: Path) -> None:
    """A copy beside the running service, then the move once it has stopped: the old place is refused by the name of the
    new one, and the service that starts there shows what the old one showed. Nothing is copied into a log that works.
    """
    service = Service(tmp_path / "service", settings={"sealer": {"interval_s": 0.2}})
    await service.start()
    words = ["log", "copy", "--config", str(service.config), "--to", postgres_url]

    def ours(*more: str) -> tuple[int, str, str]:
        done = warm.run([*words, *more], service.folder)
        return done.returncode, done.stdout, done.stderr

    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        status, out, _ = await asyncio.to_thread(ours)
        assert (status, "copied up to position 5" in out, "still takes in" in out) == (0, True, True)
        status, _, err = await asyncio.to_thread(ours, "--finish")
        assert (status, "stop every process of the service first" in err) == (1, True)
        await service.stop()
        place = postgres_url.rpartition("@")[2]
        status, out, _ = await asyncio.to_thread(ours, "--finish")
        assert (status, f"has moved to {place}, with all positions up to 5" in out) == (0, True)
        for command in (["serve"], ["events", "list"], ["backfill", "status"]):
            done = warm.run([*command, "--config", str(service.config)], service.folder)
            assert done.returncode == 2
            assert f"this log has moved to {place}: set database.url" in done.stderr
        status, _, err = await asyncio.to_thread(ours, "--take-back")
        assert (status, "may be in use there" in err) == (1, True)
        moved = Service(tmp_path / "moved", settings={"database": {"url": postgres_url}})
        assert warm.run(["db", "upgrade", "--config", str(moved.config)], moved.folder).returncode == 0
        await moved.start()
        await see(session, moved)
        status, _, err = await asyncio.to_thread(ours)
        assert (status, "a process has the role" in err) == (1, True)
        done = warm.run(["log", "verify", "--json", "--config", str(moved.config)], moved.folder)
        shown = json.loads(done.stdout)
        assert (shown["right"], shown["rows"], shown["seals"] > 0) == (True, 5, True)
        await moved.stop()
