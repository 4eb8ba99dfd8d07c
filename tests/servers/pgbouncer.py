"""Real PgBouncer for the tests, in front of a PostgreSQL server."""

import shutil
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from servers.ports import HOST, free_port
from servers.postgres import reachable_folder
from servers.process import Server, UnavailableError, as_user


class PgBouncer(Server):
    """One pooler with the settings that it comes with, but for `mode`."""

    def __init__(self, url: str, mode: Literal["session", "transaction"]) -> None:
        """Take the URL of a database. Raises UnavailableError where PgBouncer is not installed."""
        found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if found is None:
            raise UnavailableError("no PgBouncer: it is not installed")
        super().__init__(reachable_folder(), user=as_user())
        self.port = free_port()
        self._program = found
        self._parts = urlsplit(url)
        (self.folder / "users.txt").write_text(f'"{self._parts.username}" ""\n')
        (self.folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={HOST} port={self._parts.port}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {self.folder}/users.txt\npool_mode = {mode}\ndefault_pool_size = 60\n"
        )

    @property
    def url(self) -> str:
        """The address of the database behind it."""
        return urlunsplit(self._parts._replace(netloc=f"{self._parts.username}@{HOST}:{self.port}"))

    def command(self) -> Sequence[str]:
        """Say what to run: as root it refuses to."""
        return [self._program, "pgbouncer.ini"]

    async def serves(self) -> bool:
        """Tell whether it takes connections."""
        try:
            connection = await asyncpg.connect(self.url, timeout=5, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def remove(self) -> None:
        """Kill it and delete its folder."""
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
