"""WhatSMS's REST API as a typed client, usable by itself: `from whatsms_events.whatsms import Client` is all it takes.

`README.md` beside this file shows its use.
"""

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from whatsms_events import clock
from whatsms_events.whatsms.endpoint import Parameters
from whatsms_events.whatsms.endpoints import Agents, Campaigns, Contacts, Messages, Tickets
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.transport import Transport, Waits


class Client:
    """Talks to one account. `async with Client(...)`, or `open` and `close`; one event loop, any number of tasks.

    `limits` belong to the key: clients that share the key share the object, and a client that is alone with its key
    has its own. A `budget` keeps this client, and all that share the budget, below the limits: the server sees no more
    of their requests in any minute, retries included. `timeout_s` bounds one try and `attempts` the tries of a call;
    waiting for the limits counts as neither. `waits` says how long the client waits between two tries. Raises
    ConfigError for a URL that is not HTTPS (plain HTTP is for this machine only) and for a key of a wrong form.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        limits: Limits | None = None,
        parameters: Parameters = Parameters(),  # noqa: B008 - frozen
        timeout_s: float = 30.0,
        attempts: int = 6,
        waits: Waits = Waits(),  # noqa: B008 - frozen
        budget: Budget | None = None,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._transport = Transport(
            base_url,
            api_key,
            limits=limits or Limits(),
            budget=budget or Budget(),
            timeout_s=timeout_s,
            attempts=attempts,
            waits=waits,
            now=now,
        )
        self.tickets = Tickets(self._transport, parameters)
        self.messages = Messages(self._transport, parameters)
        self.contacts = Contacts(self._transport, parameters)
        self.campaigns = Campaigns(self._transport, parameters)
        self.agents = Agents(self._transport, parameters)

    def __repr__(self) -> str:
        return f"<Client {self._transport.base_url}>"

    async def open(self) -> None:
        """Make the HTTP session, if there is none. Nothing is sent yet."""
        await self._transport.open()

    async def close(self) -> None:
        """Close all connections; the client may be opened again."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
