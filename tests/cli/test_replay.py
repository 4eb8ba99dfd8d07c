"""The command `replay` as an operator uses it: it counts, compares, swaps, stops and goes on."""

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import update

from cli.commands import Done, run
from cli.test_cli import assert_refused
from servers import warm
from servers.compare import until
from servers.service import SLUG
from whatsms_events import __version__
from whatsms_events.cli.replay.options import SelectionOptions
from whatsms_events.cli.replay.stage import Pace, rules_name
from whatsms_events.cli.replay.view import print_findings
from whatsms_events.config.settings import Settings
from whatsms_events.domain.findings import Example, TableFinding
from whatsms_events.domain.replay import WHOLE
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.replays import ReplayRun, Replays
from whatsms_events.storage.projection.apply import Projection
from workers.test_consumer import opened

pytestmark = pytest.mark.process


def replay(folder: Path, *words: str) -> Done:
    """Run a command of replay on the log in a folder."""
    return run(folder, "replay", *words, "--set", f"data_dir={folder}")


async def filled(folder: Path, count: int) -> int:
    """Make a log and its tables, spoil one row, and return the log's end."""
    async with opened(f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'projection.db'}", folder) as bench:
        end = await bench.append(count)
        await bench.apply_all(bench.from_log())
        async with bench.projection.write() as connection:
            await connection.execute(update(tables.contact).values(name="Secret Name", is_group=True))
    return end


async def test_an_operator_counts_compares_discards_and_swaps(tmp_path: Path) -> None:
    """Nothing changes without --go, and no table without --swap; what differs is named by table and field, and no name
    is shown unless it is asked for. A swap ends the replay, and the next comparison finds nothing.
    """
    end = await filled(tmp_path, 120)

    def shadows() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("*shadow*.db"))

    planned = replay(tmp_path, "projection")
    assert (planned.status, shadows(), replay(tmp_path, "status").out) == (0, [], ["there was no replay yet"])
    assert f"{end} events" in planned.out
    plan = json.loads(replay(tmp_path, "projection", "--json").out[0])
    assert (sum(one["count"] for one in plan["types"]), plan["blanked"]["count"], plan["go"]) == (end, 0, False)

    compared = replay(tmp_path, "projection", "--go", "--examples", "1")
    assert (compared.status, shadows()) == (0, ["projection.shadow.db"])
    assert any(line.startswith("changed contact ") and "name (hidden)" in line for line in compared.out)
    assert not any("Secret Name" in line for line in compared.out)
    assert f"compared at position {end}; the tables are as they were" in compared.out
    assert any("'Secret Name' -> " in line for line in replay(tmp_path, "projection", "--go", "--personal").out)
    assert f"{end} events read, up to position {end} of {end}" in replay(tmp_path, "status").out[0]
    assert replay(tmp_path, "discard") == Done(0, ["the shadow is removed"], [])
    assert (replay(tmp_path, "discard").status, shadows()) == (1, [])

    swapped = json.loads(replay(tmp_path, "projection", "--go", "--swap", "--json").out[0])
    assert (swapped["swapped"], swapped["position"], swapped["differs"], shadows()) == (True, end, True, [])
    again = replay(tmp_path, "projection", "--go")
    assert "no difference" in again.out
    outcomes = [one["outcome"] for one in json.loads(replay(tmp_path, "status", "--json").out[0])["replays"]]
    assert outcomes == [None, "swapped", "discarded"]


async def test_a_part_is_compared_and_never_swapped(tmp_path: Path) -> None:
    """Position, time, tenant and type choose; a swap of a part, a wrong choice and a swap without --go are refused."""
    await filled(tmp_path, 60)
    part = ("--from-position", "10", "--to-position", "30")
    done = replay(tmp_path, "projection", *part, "--since", "2020-01-01", "--go")
    assert done.status == 0
    assert any(line.startswith("21 events up to position 30 were read again") for line in done.out)
    assert replay(tmp_path, "status").out == ["there was no replay yet"]
    assert_refused(
        replay(tmp_path, "projection", *part, "--go", "--swap"), "--swap: the tables are made of the whole .*"
    )
    assert_refused(replay(tmp_path, "projection", "--swap"), "--swap: needs --go")
    wrong = replay(tmp_path, "projection", "--since", "lately", "--tenant", "nobody", "--type", "ticket.gone")
    assert_refused(wrong, "--since lately: .*", "--tenant nobody: .*", "--type ticket.gone: the types are .*")
    of_tenant = replay(tmp_path, "projection", "--tenant", SLUG)
    assert of_tenant.out[0] == "0 events"
    assert_refused(replay(tmp_path, "kafka", "--prefix", "p"), "kafka.bootstrap_servers: is not set")
    live = ("--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.topic_prefix=live")
    assert_refused(
        replay(tmp_path, "kafka", "--prefix", "live", *live), "--prefix live: .* never writes to live topics"
    )
    assert_refused(replay(tmp_path, "kafka", "--prefix", "a/b", *live), "--prefix a/b: .*")


async def test_a_replay_stops_at_a_signal_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """SIGINT and SIGTERM end it with status 1 after its piece of work, and it says how to go on; what was read is kept,
    and the same command reads the rest.
    """
    end = await filled(tmp_path, 150)
    words = ["replay", "projection", "--go", "--rate", "30", "--set", f"data_dir={tmp_path}"]
    shadow_url = f"sqlite:///{tmp_path / 'projection.shadow.db'}"

    async def read() -> int:
        if not (tmp_path / "projection.shadow.db").exists():
            return 0
        try:
            shadow = await open_projection(DatabaseTarget(shadow_url), migrate=False)
        except Exception:  # noqa: BLE001 - it is being made
            return 0
        try:
            return (await Projection(shadow).state()).applied
        finally:
            await shadow.close()

    before = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        with (tmp_path / "said").open("wb") as said:
            program = warm.start(words, tmp_path, stdout=said, stderr=said)
        try:

            async def further(before: int = before) -> bool:
                return await read() > before

            await until(further, 60, "the shadow grows")
            program.send_signal(number)
            assert await asyncio.to_thread(program.wait, 60) == 1
        finally:
            program.send_signal(signal.SIGKILL) if program.poll() is None else None
        assert "the same command goes on from there" in (tmp_path / "said").read_text()
        before = await read()
        assert 0 < before < end
    assert f"compared at position {end}; the tables are as they were" in replay(tmp_path, "projection", "--go").out
    assert await read() == end


async def test_a_part_is_never_said_to_change_nothing_where_it_was_not_compared(tmp_path: Path) -> None:
    """Behind the tables' position nothing is read, and the command says so. Where the tables show what the log does not
    hold, it fails and names the replay that makes them anew.
    """
    await filled(tmp_path, 60)
    ahead = replay(tmp_path, "projection", "--go", "--from-position", "70")
    assert (ahead.status, any("change nothing" in line for line in ahead.out)) == (0, False)
    assert any(line.startswith("no event up to position 60 was read again") for line in ahead.out)
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=False)
    async with log.write() as connection:  # restored from an older copy
        await connection.execute(tables.event_log.delete().where(tables.event_log.c.position > 55))
    await log.close()
    done = replay(tmp_path, "projection", "--go", "--from-position", "10", "--to-position", "50")
    assert (done.status, done.out) == (1, [])
    assert "restored from an older copy" in done.err[-1]
    assert "replay projection --go --swap" in done.err[-1]


async def test_status_writes_nothing_into_a_shadow(tmp_path: Path) -> None:
    """A command that only asks makes no tables in a shadow that is only begun, and does not touch a whole one."""
    end = await filled(tmp_path, 40)
    assert replay(tmp_path, "projection", "--go").status == 0
    shadow = tmp_path / "projection.shadow.db"
    whole = shadow.read_bytes()
    assert f"{end} events read" in replay(tmp_path, "status").out[0]
    assert shadow.read_bytes() == whole
    for suffix in ("", "-wal", "-shm"):
        shadow.with_name(shadow.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(shadow)) as begun:
        begun.execute("CREATE TABLE only_begun (one INTEGER)")
    assert "the shadow is being made" in replay(tmp_path, "status").out[0]
    with closing(sqlite3.connect(shadow)) as begun:
        assert begun.execute("SELECT name FROM sqlite_master").fetchall() == [("only_begun",)]


def test_what_is_printed_is_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    """No value becomes an emoji, and a key with control characters can forge no line."""
    example = Example(kind="changed", key=("t", "a\nnew b\x1b]0;x\x07"), fields={"status": ("a :smile: b", "c")})
    found = TableFinding(table="ticket", rows=1, new=0, lost=0, changed=1, fields={"status": 1}, examples=(example,))
    print_findings([found], "the end :car:")
    *_, line, last = capsys.readouterr().out.splitlines()
    assert line == r"changed ticket 't'/'a\nnew b\x1b]0;x\x07'  status 'a :smile: b' -> 'c'"
    assert last == "the end :car:"


@pytest.mark.parametrize("given", ["2026-01-31", "2026-01-31T00:00", "2026-01-31T00:00Z", "2026-01-31T00:00:00Z"])
def test_a_time_may_be_given_as_a_day_or_a_minute(given: str) -> None:
    """All of these are the same moment, in UTC."""
    assert SelectionOptions(since=given).selection(Settings()).since == datetime(2026, 1, 31, tzinfo=UTC)


async def test_a_piece_that_fails_is_tried_again_and_said() -> None:
    """What may work later is tried ten times with growing waits, each failure told; a stop ends the waiting at once."""
    stop, told, failed = asyncio.Event(), list[str](), iter([True, True, False])

    async def piece() -> int:
        if next(failed):
            raise StorageUnavailableError("away")
        return 0

    assert await Pace(stop, None, told.append).repeat(piece)
    assert told == ["tries again: away"] * 2

    async def never() -> int:
        stop.set()
        raise StorageUnavailableError("away")

    assert not await Pace(stop, None, told.append).repeat(never)
    assert await Pace(asyncio.Event(), 30.0, told.append).repeat(piece_of_nothing)
    assert Pace(stop, 30.0, told.append).limit(1000) == 30


async def piece_of_nothing() -> int:
    """Return that there is nothing left to do."""
    return 0


async def test_a_replay_that_other_code_began_is_not_gone_on_with(tmp_path: Path) -> None:
    """Half a shadow was read by other rules: the command ends with status 2 and says how to begin anew. Each change of
    the rules has a name of its own, also within one release.
    """
    await filled(tmp_path, 40)
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=False)
    older = ReplayRun(uuid4(), "projection", "", WHOLE, "0.0.9+0123456789ab", datetime.now(UTC))
    await Replays(log).begin(older)
    await log.close()
    assert_refused(
        replay(tmp_path, "projection", "--go"), "release 0.0.9.* began .* `whatsms-events replay discard` .*"
    )
    assert replay(tmp_path, "discard").status == 0
    assert replay(tmp_path, "projection", "--go").status == 0
    (tmp_path / "fold.py").write_text("one")
    name = rules_name(tmp_path)
    assert name.startswith(f"{__version__}+")
    (tmp_path / "fold.py").write_text("another")
    assert rules_name(tmp_path) != name
