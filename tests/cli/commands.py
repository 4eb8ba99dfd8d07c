"""The program as an operator runs it: a process of its own in a folder of its own, with no variable but those given."""

import asyncio
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from servers import warm
from servers.service import SECRET, SLUG, TENANT
from whatsms_events.storage import database
from whatsms_events.storage.database import DatabaseTarget

CONFIG = f"""
[public]
host = "127.0.0.1"
port = 0
[private]
port = 0
[tenants.{SLUG}]
tenant_id = "{TENANT}"
webhook_secrets = {{ current = "{SECRET}" }}
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its status, and the lines on its two outputs."""

    status: int
    out: list[str]
    err: list[str]


def make_log(folder: Path) -> str:
    """Leave an empty log and projection in a folder, as `serve` makes them; return the log's URL."""
    folder.mkdir(parents=True, exist_ok=True)
    log = f"sqlite:///{folder / 'log.db'}"

    async def upgraded() -> None:
        await database.upgrade("log", DatabaseTarget(log))
        await database.upgrade("projection", DatabaseTarget(f"sqlite:///{folder / 'projection.db'}"))

    with ThreadPoolExecutor(1) as apart:  # the caller's thread may have a loop of its own
        apart.submit(asyncio.run, upgraded()).result()
    return log


def run(folder: Path, *words: str, environ: Mapping[str, str] | None = None, config: str | None = CONFIG) -> Done:
    """Run a command in `folder`, on `config` where it is not None; it has 300 s."""
    done = run_raw(folder, *words, environ=environ, config=config)
    return Done(done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines())


def run_raw(
    folder: Path, *words: str, environ: Mapping[str, str] | None = None, config: str | None = CONFIG
) -> subprocess.CompletedProcess[bytes]:
    """Run a command like `run`; return the bytes that it wrote."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WHATSMS_EVENTS_")}
    if config is not None:
        (folder / "whatsms.toml").write_text(config)
        environment["WHATSMS_EVENTS_CONFIG"] = "whatsms.toml"
    done = warm.run_raw(words, folder, environ=environment | {"COLUMNS": "200"} | dict(environ or {}))
    assert b"Traceback" not in done.stderr
    return done
