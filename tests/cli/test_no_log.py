"""A log that is not there: who makes one, and what the others say."""

import asyncio
import signal
from pathlib import Path

import aiohttp
import pytest

from cli.commands import CONFIG, Done, make_log, run
from servers.compare import until
from servers.service import SLUG, Service
from servers.upstream import account, sections, toml

pytestmark = pytest.mark.process

NOBODY = "00000000-0000-8000-8000-000000000000"
ASKING = [
    ["parked", "list"],
    ["parked", "show", NOBODY],
    ["parked", "retry", NOBODY],
    ["parked", "discard", NOBODY],
    ["backfill", "status"],
    ["backfill", "run", "--tenant", SLUG],
    ["db", "upgrade"],
]


def says(path: Path) -> Done:
    """Return what is said of a log that is not there."""
    line = f"NotFoundError: there is no log at {path}: `serve` makes it; else see --config, data_dir and database.url"
    return Done(1, [], [line])


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_no_command_but_serve_and_demo_makes_a_log(words: list[str], tmp_path: Path) -> None:
    """Where there is no log every other command says so with its path and ends with status 1, and nothing is made: not
    beside the configuration, not in the working folder.
    """
    folder = tmp_path / "of the service"
    folder.mkdir()
    (folder / "whatsms.toml").write_text(toml("http://127.0.0.1:9/api/v2"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(elsewhere, *words, "--config", str(folder / "whatsms.toml"), config=None)
    assert done == says(folder / "var" / "log.db")
    assert [path.name for path in folder.iterdir()] == ["whatsms.toml"]
    assert list(elsewhere.iterdir()) == []


def test_a_file_without_a_byte_is_no_log(tmp_path: Path) -> None:
    """Where somebody made an empty file by that name there is still no log, and none is made of it."""
    (tmp_path / "var").mkdir()
    file = tmp_path / "var" / "log.db"
    file.touch()
    assert run(tmp_path, "db", "upgrade") == says(file)
    assert run(tmp_path, "parked", "list") == says(file)
    assert file.stat().st_size == 0


def test_config_show_says_where_the_log_is(tmp_path: Path) -> None:
    """`config show` prints the whole path of the data folder, also where it is the default of a file elsewhere."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "w.toml").write_text(CONFIG)
    shown = run(tmp_path, "config", "show", "--config", "etc/w.toml", config=None)
    assert f'data_dir = "{tmp_path}/etc/var"  # default' in shown.out
    flag = run(tmp_path, "config", "show", "--config", "etc/w.toml", "--set", "data_dir=x", config=None)
    assert f'data_dir = "{tmp_path}/x"  # flag' in flag.out


async def test_a_backfill_from_another_folder_repairs_the_services_own_log(tmp_path: Path) -> None:
    """`serve` in one folder, `backfill run --config` from another, `data_dir` not set: what the command found is in the
    service's read API, and no second log was made.
    """
    async with account() as there:
        on_command = {"interval_s": 0, "outage_s": 0, "repair_interval_s": 0}
        settings = sections(there.url, backfill=on_command)
        service = Service(tmp_path / "service", roles="receiver,consumer,backfill", settings=settings)
        service.config.write_text(service.config.read_text().replace('data_dir = "."\n', ""))
        await service.start()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        words = ("backfill", "run", "--tenant", SLUG, "--config", "../service/whatsms.toml")
        done = await asyncio.to_thread(run, elsewhere, *words, config=None)
        assert done.status == 0, done.err
        assert list(elsewhere.iterdir()) == []
        ticket = next(iter(there.world.account.tickets.values())).id
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{service.private_url}/api/v1/{SLUG}/tickets/{ticket}") as answer,
        ):
            assert answer.status == 200
        await service.stop()
    assert (service.folder / "var" / "log.db").exists()


async def test_serve_makes_its_log_beside_its_file(tmp_path: Path) -> None:
    """`serve`, started from the root folder as an init system does, makes the log in its file's folder."""
    service = Service(tmp_path / "service", roles="receiver")
    service.config.write_text(service.config.read_text().replace('data_dir = "."\n', ""))
    process = await asyncio.create_subprocess_exec(
        *service.command(), cwd="/", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await until(service.serves, 120, "it serves")
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert (service.folder / "var" / "log.db").exists()
    assert run(Path("/"), "parked", "list", "--config", str(service.config), config=None) == Done(0, [], [])


def test_an_older_log_is_migrated_and_a_new_one_is_not_made(tmp_path: Path) -> None:
    """`db upgrade` on SQLite works on the log that is there."""
    make_log(tmp_path / "var")
    (tmp_path / "var" / "projection.db").unlink()
    assert run(tmp_path, "db", "upgrade") == Done(0, ["log and projection are at head"], [])
    assert (tmp_path / "var" / "projection.db").exists()
