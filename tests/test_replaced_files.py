"""What an operator may do to the SQLite files of a running service: a 2xx stays a promise, and somebody is told."""

import os
import shutil
import signal
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from servers.compare import opened, until, whole_log
from servers.service import SECRET, Service
from test_journey import delivery, see, told
from test_metrics import sample, shows
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

FILES = ("log.db", "log.db-wal", "log.db-shm", "projection.db", "projection.db-wal", "projection.db-shm")


def remove(*names: str) -> Callable[[Path], None]:
    """Return what removes these files."""

    def removed(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return removed


def move_away(folder: Path) -> None:
    """Move all files into another folder."""
    (folder / "elsewhere").mkdir()
    for name in FILES:
        (folder / name).rename(folder / "elsewhere" / name)


def move_back(folder: Path) -> None:
    """Bring the files back."""
    for path in (folder / "elsewhere").iterdir():
        path.rename(folder / path.name)


def another_log(folder: Path) -> Path:
    """Make the log of another service, larger than ours."""
    with closing(sqlite3.connect(folder / "log.db")) as ours, closing(sqlite3.connect(folder / "other.db")) as other:
        ours.backup(other)
        other.execute("PRAGMA application_id = 77")
        other.execute("CREATE TABLE padding AS SELECT zeroblob(1000000) AS zeros")
        other.commit()
    return folder / "other.db"


def put_another_in_its_place(folder: Path) -> None:
    """Replace the log by another file, as `mv other.db log.db` does."""
    another_log(folder).rename(folder / "log.db")


def copy_another_over_it(folder: Path) -> None:
    """Write another log over ours, as `cp other.db log.db` does: the inode stays."""
    shutil.copyfile(another_log(folder), folder / "log.db")


def copy_an_older_one_over_it(folder: Path) -> None:
    """Write an older copy over the log, as somebody does who restores a backup under the running service."""
    shutil.copyfile(folder / "backup.db", folder / "log.db")


def empty(folder: Path) -> None:
    """Make the log an empty file, as `> log.db` does."""
    os.truncate(folder / "log.db", 0)


MISHAPS = [
    remove(*FILES),
    remove("log.db"),
    remove("log.db-wal"),
    remove("log.db-shm"),
    move_away,
    put_another_in_its_place,
    copy_another_over_it,
    copy_an_older_one_over_it,
    empty,
]
NAMES = ["rm_all", "rm_log", "rm_wal", "rm_shm", "mv", "mv_other_over", "cp_other_over", "cp_older_over", "truncate"]


async def send(session: aiohttp.ClientSession, service: Service, number: int) -> tuple[int, bool]:
    """Send a delivery of its own; return the answer's status and whether it says when to come again."""
    body = delivery("ticket.updated", f"2026-01-15T12:00:{number:02}Z", ticket={"id": f"u-{number}", "status": "open"})
    async with session.post(service.webhook_url, data=body, headers={HEADER: sign(body, SECRET.encode())}) as answer:
        return answer.status, "Retry-After" in answer.headers


async def door(session: aiohttp.ClientSession, service: Service) -> int:
    """Ask whether a delivery would be accepted now."""
    async with session.get(f"{service.private_url}/readyz/receiver") as answer:
        return answer.status


def complaints(service: Service, event: str) -> list[str]:
    """Return the reasons of the log lines of this name, which are errors all."""
    found = [line for line in service.lines() if line["event"] == event]
    assert all(line["level"] == "error" for line in found)
    return [str(line["reason"]) for line in found]


async def with_a_checkpoint(session: aiohttp.ClientSession, service: Service) -> None:
    """Tell a story, keep a copy of the log as it was before, and let SQLite write all of it into the file itself."""
    with (
        closing(sqlite3.connect(service.folder / "log.db")) as log,
        closing(sqlite3.connect(service.folder / "backup.db")) as backup,
    ):
        log.backup(backup)
    await told(session, service)
    await see(session, service)
    for number in range(20, 50):  # more pages, so that the copy is older by the file's own count
        assert await send(session, service, number) == (200, False)
    with closing(sqlite3.connect(service.folder / "log.db")) as log:
        log.execute("PRAGMA wal_checkpoint(PASSIVE)")


@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_files_that_are_replaced_under_the_running_service_acknowledge_nothing(
    tmp_path: Path, mishap: Callable[[Path], None]
) -> None:
    """Removed, moved, replaced or written over: each delivery is 503 with Retry-After, the receiver is not ready, one
    error line says what happened and what to do, and the process goes on, since it may hold the only copy.
    """
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await with_a_checkpoint(session, service)
        mishap(service.folder)
        assert [await send(session, service, number) for number in range(5)] == [(503, True)] * 5
        assert await door(session, service) == 503
        (reason,) = complaints(service, "log.replaced")
        assert "log.db" in reason
        assert len(reason) < 300, "it is cut"
        assert not [path for path in service.folder.glob("*.db*") if stat.S_IMODE(path.stat().st_mode) & 0o077 and
                    path.name not in {"backup.db", "other.db", "log.db"}]  # fmt: skip
    assert service.pid is not None
    await service.kill()


def cut_the_wal(folder: Path) -> None:
    """Make the WAL an empty file: SQLite would go on behind the hole."""
    os.truncate(folder / "log.db-wal", 0)


def move_and_link(folder: Path) -> None:
    """Move the file alone and leave a link to it: at the next start SQLite would look for the WAL beside the file."""
    (folder / "log.db").rename(folder / "big.db")
    (folder / "log.db").symlink_to(folder / "big.db")


@pytest.mark.parametrize("mishap", [cut_the_wal, move_and_link])
async def test_what_only_a_crash_would_show_is_seen_at_once(tmp_path: Path, mishap: Callable[[Path], None]) -> None:
    """A WAL that was cut, and a file that was moved and linked, work until the next crash: nothing is acknowledged."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        mishap(service.folder)
        assert [await send(session, service, number) for number in range(3)] == [(503, True)] * 3
        assert await door(session, service) == 503
        (reason,) = complaints(service, "log.replaced")
        assert "log.db" in reason or "big.db" in reason
    await service.kill()


async def test_files_that_are_moved_back_are_used_again(tmp_path: Path) -> None:
    """Once the same files are back at their path the service goes on by itself, says so, and has all it accepted."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        move_away(service.folder)
        assert await send(session, service, 1) == (503, True)
        move_back(service.folder)

        async def accepts() -> bool:
            return (await send(session, service, 1))[0] == 200

        await until(accepts, 60, "the log is used again")
        assert await door(session, service) == 200
        await see(session, service)
    await service.kill()
    assert [line["event"] for line in service.lines()].count("log.back") == 1
    log, projection = await opened(*(f"sqlite:///{service.folder / name}" for name in ("log.db", "projection.db")))
    assert len(await whole_log(log)) == 6
    await log.close()
    await projection.close()


@pytest.mark.parametrize("beside", ["log.db-wal", "log.db-shm"])
async def test_a_stop_in_good_order_saves_what_a_removed_file_beside_the_log_held(tmp_path: Path, beside: str) -> None:
    """As the error line advises: SIGTERM writes what the process still holds into the log; nothing accepted is lost."""
    service = Service(tmp_path / "service", roles="receiver")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        (service.folder / beside).unlink()
        assert await send(session, service, 1) == (503, True)
        assert "SIGTERM" in complaints(service, "log.replaced")[0]
    await service.stop()
    await service.start()
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.private_url}/api/v1/events") as answer:
            assert len((await answer.json())["events"]) >= 5
        assert await send(session, service, 1) == (200, False)
    await service.stop()


async def test_a_projection_that_is_removed_stops_the_consumer_and_no_delivery(tmp_path: Path) -> None:
    """The consumer writes no further into a removed projection, the process is not ready and says why; the receiver
    accepts as before, and a restart makes the projection anew from the log.
    """
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        remove("projection.db", "projection.db-wal", "projection.db-shm")(service.folder)
        assert await send(session, service, 1) == (200, False)
        assert await door(session, service) == 200

        async def said() -> bool:
            async with session.get(f"{service.private_url}/readyz") as answer:
                body = await answer.json()
            return answer.status == 503 and "projection.db" in str(body["checks"])

        await until(said, 60, "the process is not ready")
        assert not (service.folder / "projection.db").exists()
        service.signal(signal.SIGTERM)
        await service.stop()
        await service.start()
        await see(session, service)
        await shows(session, service, {sample("applied_through_position"): 6})
    await service.stop()


async def test_every_file_is_for_nobody_elses_eyes(tmp_path: Path) -> None:
    """Log, projection, and what SQLite and the locks put beside them have mode 0600, however wide the umask is; a file
    that was there before keeps its mode, and a warning says that others can read it.
    """
    before = os.umask(0)
    try:
        service = Service(tmp_path / "service")
        await service.start()
        async with aiohttp.ClientSession() as session:
            await told(session, service)
            await see(session, service)
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in service.folder.glob("*.db*")}
        assert set(FILES) <= modes.keys()
        assert set(modes.values()) == {"0o600"}, modes
        await service.stop()
        (service.folder / "log.db").chmod(0o644)
        await service.start()
        (warning,) = [line for line in service.lines() if line["event"] == "database.readable"]
        assert (warning["level"], "0644" in str(warning["reason"])) == ("warning", True)
        assert str(warning["file"]).endswith("log.db")
        await service.stop()
    finally:
        os.umask(before)
