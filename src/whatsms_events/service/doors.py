"""The two listeners of a process: where their sockets come from, when they accept, and how they close.

A process that is started accepts when it can commit. Until then connections wait in the kernel's queue, so a restart
is a delay to senders and no refusal. Where a database is away, and after HOLD_S in any case, it accepts all the same,
and deliveries get 503: to a sender that waits for ever nothing is told.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from whatsms_events.clock import first_of
from whatsms_events.config.settings import Private, Public, Settings
from whatsms_events.service.handover import Offer, TakenOver, take
from whatsms_events.web.app import Listener
from whatsms_events.web.sockets import Sockets, bound, port_of

HOLD_S: Final = 10.0
"""How long deliveries may wait for a process that starts. To a sender that tries once a 503 is as bad as no answer, and
a slow machine takes seconds to start."""

PRIVATE_DRAIN_S: Final = 1.0
"""How long a process that stops still answers what operators asked."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the two listeners are; `public` is None without the receiver's role."""

    public: str | None
    private: str


class Doors:
    """The listeners from their sockets to their end. `public` is None for a process that takes no deliveries.

    `roles` are those that the process was asked for: one with other roles cannot take its place. `given` are sockets
    that systemd holds. `away` is set where the start has to wait for a database. `on_taken` is called when another
    process has taken over.
    """

    def __init__(
        self,
        settings: Settings,
        public: Listener | None,
        private: Listener,
        *,
        roles: frozenset[str],
        given: Sockets,
        away: asyncio.Event,
        on_taken: Callable[[], None],
        hold_s: float = HOLD_S,
    ) -> None:
        self._settings = settings
        self._public = public
        self._private = private
        self._roles = roles
        self._given = given
        self._away = away
        self._on_taken = on_taken
        self._hold_s = hold_s
        self._taken: TakenOver | None = None
        self._offer: Offer | None = None
        self._handed_over = False
        self._closing = asyncio.Event()

    async def listen(self) -> Addresses:
        """Get the sockets, and let the kernel take connections; raise OSError where addresses cannot be had.

        Raise ConfigError where no socket can be taken from the process before us.
        """
        path = self._settings.handover.socket
        # In a thread, so that a signal is heard: the other process may take its time.
        self._taken = None if path is None else await asyncio.to_thread(take, path, self._roles)
        wanted = (("public", self._public, self._settings.public), ("private", self._private, self._settings.private))
        found: dict[str, str] = {}
        faults: list[OSError] = []
        for name, listener, section in wanted:
            try:
                if listener is not None:
                    found[name] = await self._listen(listener, name, section)
            except OSError as exc:
                faults.append(exc)
        if faults:  # all of them are named, so that a person mends them in one go
            says = "; ".join(one.strerror or type(one).__name__ for one in faults)
            raise OSError(faults[0].errno, says) from faults[0]
        if self._taken is None:
            await self._private.accept()  # nobody else answers whether this process is ready
        else:
            self._taken.watch()
            self._taken.keep(one for each in self._sockets().values() for one in each)
        return Addresses(found.get("public"), found["private"])

    async def _listen(self, listener: Listener, name: str, wanted: Public | Private) -> str:
        if given := self._given.get(name):
            return await listener.listen(given)
        taken = None if self._taken is None else self._taken.sockets.get(name)
        try:
            if taken and await _fits(taken, wanted.host, wanted.port):
                return await listener.listen(taken, wanted.host)
            return await listener.listen(await bound(wanted.host, wanted.port), wanted.host)
        except OSError as exc:
            shown = f"[{wanted.host}]:{wanted.port}" if ":" in wanted.host else f"{wanted.host}:{wanted.port}"
            says = (exc.strerror or type(exc).__name__).lower()
            raise OSError(exc.errno, f"cannot listen on {shown}: {says}; see {name}.host and {name}.port") from exc

    async def accept_in_time(self) -> None:
        """Accept without a database, once one is known to be away, and after HOLD_S.

        Not while the process before us takes deliveries: where that one ends before we are ready, HOLD_S after its end.
        Not where this process stops.
        """
        if (before := self._taken) is None:
            await first_of(self._away, self._closing, seconds=self._hold_s)
        else:
            await first_of(before.ended, self._closing)
            if before.ended.is_set():
                await self._go_on_alone()
        if not self._closing.is_set():
            await self._accept()

    async def _go_on_alone(self) -> None:
        """Tell operators at once how this process is, and let deliveries wait: its database may come back."""
        log.warning("service.left_alone")
        self._taken = None
        await self._private.accept()
        await first_of(self._closing, seconds=self._hold_s)

    async def open(self, connected: asyncio.Event, stop: asyncio.Event) -> bool:
        """Accept, and let the process before us stop, once deliveries can be committed; False where `stop` came first.

        That is when `connected` is set. Where nobody else takes deliveries meanwhile, HOLD_S is long enough. Raise
        ConfigError where our own sockets cannot be offered.
        """
        if (before := self._taken) is not None:
            await first_of(connected, stop, before.ended)
        if not connected.is_set():
            await first_of(connected, stop, seconds=self._hold_s)
        if stop.is_set():
            return False
        await self._accept()
        if stop.is_set():  # it came meanwhile; what was accepted is answered
            return False
        self._take_over()
        return True

    async def _accept(self) -> None:
        """Accept what comes, and what has waited; nothing happens where that was done before."""
        for one in (self._public, self._private):
            if one is not None:
                await one.accept()

    def _take_over(self) -> None:
        """Offer our sockets to the next process, and let the one before us stop.

        In this order, and without a pause in between: where our offer cannot be made, we stop, and it has to go on.
        """
        if (path := self._settings.handover.socket) is not None:
            self._offer = Offer(path, self._roles, self._sockets(), self._hand_over)
            self._offer.open()
        if self._taken is not None:
            self._taken.ready()
            self._taken = None
            log.info("service.took_over")

    def _sockets(self) -> Sockets:
        listeners = (("public", self._public), ("private", self._private))
        return {name: one.sockets for name, one in listeners if one is not None}

    def _hand_over(self) -> None:
        """Stop, and accept no more at once: the next process accepts from the same queues."""
        log.info("service.handed_over")
        self._handed_over = True
        self._turn_away()
        self._on_taken()

    def _turn_away(self) -> None:
        for one in (self._public, self._private):
            if one is not None:
                one.turn_away()

    async def close_public(self, drain_s: float, *, leave_s: float, idle_s: float) -> None:
        """Take no new deliveries after `leave_s`, and answer those that are under way."""
        self.stop_waiting()
        if self._offer is not None:
            self._offer.close()
        if self._public is not None:
            await self._public.stop(drain_s, leave_s=0.0 if self._handed_over else leave_s, idle_s=idle_s)

    async def close_private(self) -> None:
        """Answer operators no more. A process before us that was not told to stop goes on."""
        await self._private.stop(PRIVATE_DRAIN_S, idle_s=0.0)
        if self._taken is not None:
            self._taken.close()

    def stop_waiting(self) -> None:
        """Let `accept_in_time` end."""
        self._closing.set()


async def _fits(sockets: Sequence[socket.socket], host: str, port: int) -> bool:
    """Tell whether sockets are bound to a listener's address; port 0 fits every port."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {address[0] for *_rest, address in found}
    return all(one.getsockname()[0] in addresses and port in (0, port_of(one)) for one in sockets)
