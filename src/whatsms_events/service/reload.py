"""Read the settings again while the process runs: on SIGHUP, and where their files have changed.

Theory of operation. What counts is the content: the configuration file and the secret files are read every few seconds,
so that an edited file, a replaced one, and the links that Kubernetes swaps are all noticed in one way. A content that
is new must be there twice in a row, because a file may be read while it is written. Then

    read        a mistake: the settings that are in force stay, a line and a gauge say so, until the mistake is mended;
                until then they are read at each look
    compare     `config.change` says what may change now, and names what waits for a restart
    apply       in one go, without a pause in which a delivery could be judged: so between two batches

A file server may hang. So all reading is done in one thread beside the event loop, one look at a time, and neither the
stop nor the end of the process waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.clock import within
from whatsms_events.config.change import Change, change
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError
from whatsms_events.service.aside import SideThread

POLL_S: Final = 2.0
READ_S: Final = 10.0
"""How long a look may take until it is refused; its result is taken all the same where it comes later."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SettingsFiles:
    """Where settings come from: `load` reads them anew, `fingerprint` tells whether a file has another content."""

    load: Callable[[], Settings]
    fingerprint: Callable[[], bytes]


class Reload:
    """Lets `apply` have each change of the settings. `running` is what the process was started with."""

    def __init__(
        self,
        files: SettingsFiles,
        running: Settings,
        apply: Callable[[Settings], None],
        *,
        poll_s: float = POLL_S,
        read_s: float = READ_S,
    ) -> None:
        self._files = files
        self._poll_s, self._read_s = poll_s, read_s
        self._running = running
        self._watched = frozenset(running.tenants)  # those whose watchdog and backfill began with the process
        self._apply = apply
        self._asked = asyncio.Event()
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._read = b""  # the content that was read last; none yet, for a file may change while the process starts
        self._seen = b""  # the content at the last look
        self._refused = ""  # why the last reading was refused
        self._said: tuple[str, ...] = ()
        metrics.SETTINGS_REFUSED.set(0)

    def ask(self) -> None:
        """Read at once, whatever has changed."""
        self._asked.set()

    def stop(self) -> None:
        """Let `run` end at once, also while the files are read."""
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._asked.set()

    async def run(self) -> None:
        """Look every `poll_s` seconds until `stop`."""
        aside, asked = SideThread("settings"), False
        try:
            while not self._stopped.done():
                await self._one_look(aside, asked=asked)
                await within(self._asked, self._poll_s)
                asked = self._asked.is_set()  # also where it was set just when the time was up
                self._asked.clear()
        finally:
            aside.close()

    async def _one_look(self, aside: SideThread, *, asked: bool) -> None:
        """Look, and take what was found. A look that hangs is refused once, and no other begins until it has ended."""
        look = aside.do(partial(self._look, asked=asked, refused=bool(self._refused)))
        while not look.done():
            await asyncio.wait((look, self._stopped), timeout=self._read_s, return_when=asyncio.FIRST_COMPLETED)
            if self._stopped.done():
                look.cancel()
                return
            if not look.done():
                self._refuse(f"the files were not read within {self._read_s:g} s", asked=asked)
                asked = False
        found = look.result()
        if isinstance(found, str):
            self._refuse(found, asked=asked)
        elif found is not None:
            self._take(found)

    def _look(self, *, asked: bool, refused: bool) -> Change | str | None:
        """Return what has changed, or why the settings are refused; None where there is nothing new to read.

        This is for the other thread: all of it reads files, certificates among them. What was refused is read again
        at each look, since the mistake may be in a file that the settings only name.
        """
        try:
            content = self._files.fingerprint()
            settled, self._seen = content == self._seen, content
            if not asked and not (settled and (refused or content != self._read)):
                return None
            self._read = content
            return change(self._running, self._files.load(), watched=self._watched)
        except ConfigError as exc:
            return "; ".join(exc.problems)
        except OSError as exc:  # such as a working folder that is gone, where a path begins there
            return f"cannot be read: {(exc.strerror or type(exc).__name__).lower()}"

    def _refuse(self, reason: str, *, asked: bool) -> None:
        """Say why, once for each reason, and whenever somebody asked."""
        metrics.SETTINGS_REFUSED.set(1)
        if asked or reason != self._refused:
            log.error("settings.refused", reason=reason)
        self._refused = reason

    def _take(self, found: Change) -> None:
        metrics.SETTINGS_REFUSED.set(0)
        self._refused = ""
        if found.applied:
            self._apply(found.settings)
            self._running = found.settings
            self._watched &= found.settings.tenants.keys()  # what has ended does not begin again
            log.info("settings.applied", fields=list(found.applied))
        if found.waiting and found.waiting != self._said:
            log.warning("settings.waiting", fields=list(found.waiting))
        self._said = found.waiting
