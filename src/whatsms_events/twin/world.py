"""An account with people in it who live by a seed: the same seed gives the same webhooks, to the byte, for ever."""

import heapq
import random
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final

from whatsms_events.twin.account import Account, Webhook
from whatsms_events.twin.dialects import DIALECTS, Dialect
from whatsms_events.twin.life import Life, Script

NATURAL_PACE: Final = 2.8
"""Events in a second of the scripts' own time, which is the sum of their delays (measured)."""


class World:
    """One account with people in it.

    `pace` is how many events come in a second of the world's clock. If it is the sender's rate, that clock keeps up
    with the real one; all of life (answers, acks, closings) goes faster with it. `account` is the truth.

    While it is paused nothing happens by itself: `advance` still moves the clock, and what was said before, or is said
    through the API, is sent. What people were about to do then comes later by the length of the pause.
    """

    def __init__(
        self,
        seed: int,
        *,
        start: datetime,
        tenant_id: str,
        dialect: Dialect = DIALECTS["documented"],
        pace: float = NATURAL_PACE,
        keep: int = 20_000,
    ) -> None:
        rng = random.Random(seed)  # noqa: S311 - the same seed must give the same world
        self._unit_s = NATURAL_PACE / pace
        self.account = Account(rng, start=start, tenant_id=tenant_id, dialect=dialect, unit_s=self._unit_s, keep=keep)
        self._agenda: list[tuple[datetime, int, Script | Webhook]] = []
        self._entries = 0
        self._ready: deque[Webhook] = deque()
        self._paused_at: datetime | None = None
        self._held: list[tuple[datetime, Script]] = []
        self._life = Life(rng, self.account, self._begin)
        self._begin(self._life.doorbell(), 0.0)
        self._begin(self._life.campaigns(), 0.0)

    @property
    def now(self) -> datetime:
        """The world's clock."""
        return self.account.now

    def step(self) -> list[Webhook]:
        """Let the next thing happen, move the clock to it, and return the webhooks that it sends; maybe none.

        Raises IndexError where the world is paused and nothing is left to send.
        """
        at, _, item = heapq.heappop(self._agenda)
        self.account.now = max(at, self.now)
        if isinstance(item, Webhook):
            return [item]
        wait_s = next(item, None)
        if wait_s is not None:
            self._put(self.now + timedelta(seconds=wait_s * self._unit_s), item)
        return self._collect()

    def advance(self, to: datetime) -> list[Webhook]:
        """Let everything happen that is due until `to`, set the clock to it, and return all webhooks of that time."""
        webhooks = self._collect()
        while self._agenda and self._agenda[0][0] <= to:
            webhooks += self.step()
        self.account.now = max(to, self.now)
        return webhooks

    @property
    def paused(self) -> bool:
        """Tell whether life stands still."""
        return self._paused_at is not None

    def pause(self) -> None:
        """Let life stand still from now on; a second call changes nothing."""
        if self._paused_at is not None:
            return
        self._paused_at = self.now
        agenda, self._agenda = self._agenda, []
        for at, _, item in sorted(agenda, key=itemgetter(0, 1)):
            self._put(at, item)

    def resume(self) -> None:
        """Let life go on where it stood; where it is not paused, nothing changes."""
        if self._paused_at is None:
            return
        pause, self._paused_at = self.now - self._paused_at, None
        held, self._held = self._held, []
        for at, script in held:
            self._put(at + pause, script)

    def webhooks(self) -> Iterator[Webhook]:
        """Yield webhooks for ever, step after step; a second iterator goes on where the first was left."""
        while True:
            while not self._ready:
                self._ready.extend(self.step())
            yield self._ready.popleft()

    def _collect(self) -> list[Webhook]:
        for asked in self.account.asked:
            self._life.go_on(asked)
        self.account.asked.clear()
        due = []
        for webhook in self.account.outbox:
            if webhook.due > self.now:
                self._put(webhook.due, webhook)
            else:
                due.append(webhook)
        self.account.outbox.clear()
        return due

    def _put(self, at: datetime, item: Script | Webhook) -> None:
        if self._paused_at is not None and not isinstance(item, Webhook):
            self._held.append((at - (self.now - self._paused_at), item))
            return
        self._entries += 1
        heapq.heappush(self._agenda, (at, self._entries, item))

    def _begin(self, script: Script, after_s: float) -> None:
        self._put(self.now + timedelta(seconds=after_s * self._unit_s), script)
