"""Read the settings again while the process runs: on SIGHUP, and where their files have changed.

Theory of operation. What counts is the content: the configuration file and the secret files are read every few seconds,
so that an edited file, a replaced one, and the links that Kubernetes swaps are all noticed in one way. A content that
is new must be there twice in a row, because a file may be read while it is written. Then

    read        a mistake: the settings that are in force stay, a line and a gauge say so, until the mistake is mended
    compare     `config.change` says what may change now, and names what waits for a restart
    apply       in one go, without a pause in which a delivery could be judged: so between two batches
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.clock import within
from whatsms_events.config.change import Change, change
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError

POLL_S: Final = 2.0
READ_S: Final = 10.0
"""How long reading may take, such as from a file server that hangs."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SettingsFiles:
    """Where settings come from: `load` reads them anew, `fingerprint` tells whether a file has another content."""

    load: Callable[[], Settings]
    fingerprint: Callable[[], bytes]


class Reload:
    """Lets `apply` have each change of the settings. `running` is what the process was started with."""

    def __init__(self, files: SettingsFiles, running: Settings, apply: Callable[[Settings], None]) -> None:
        self._files = files
        self._running = running
        self._apply = apply
        self._asked = asyncio.Event()
        self._stopped = False
        self._read = b""  # the content that was read last; none yet, for a file may change while the process starts
        self._seen = b""  # the content at the last look
        self._said: tuple[str, ...] = ()
        metrics.SETTINGS_REFUSED.set(0)

    def ask(self) -> None:
        """Read at once, whatever has changed."""
        self._asked.set()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped = True
        self._asked.set()

    async def run(self) -> None:
        """Look every POLL_S until `stop`."""
        self._seen = await self._fingerprint()
        while True:
            asked = await within(self._asked, POLL_S)
            if self._stopped:
                return
            self._asked.clear()
            content = await self._fingerprint()
            settled, self._seen = content == self._seen, content
            if asked or (settled and content != self._read):
                self._read = content
                await self._reread()

    async def _fingerprint(self) -> bytes:
        try:
            async with asyncio.timeout(READ_S):
                return await asyncio.to_thread(self._files.fingerprint)
        except TimeoutError:
            return self._read

    async def _reread(self) -> None:
        try:
            async with asyncio.timeout(READ_S):
                wanted = await asyncio.to_thread(self._files.load)
        except ConfigError as exc:
            self._refuse("; ".join(exc.problems))
        except TimeoutError:
            self._refuse(f"the files were not read within {READ_S:g} s")
        except OSError as exc:  # such as a working folder that is gone, where a path begins there
            self._refuse(f"cannot be read: {(exc.strerror or type(exc).__name__).lower()}")
        else:
            metrics.SETTINGS_REFUSED.set(0)
            self._take(change(self._running, wanted))

    def _refuse(self, reason: str) -> None:
        metrics.SETTINGS_REFUSED.set(1)
        log.error("settings.refused", reason=reason)

    def _take(self, found: Change) -> None:
        if found.applied:
            self._apply(found.settings)
            self._running = found.settings
            log.info("settings.applied", fields=list(found.applied))
        if found.waiting and found.waiting != self._said:
            log.warning("settings.waiting", fields=list(found.waiting))
        self._said = found.waiting
