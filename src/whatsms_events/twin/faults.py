"""What goes wrong with webhooks on bad days: drops, repeats, delays and swaps by a seed; single faults on demand."""

import heapq
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from whatsms_events.twin.account import Webhook

MAX_COPIES: Final = 3
"""A body that is redelivered is sent at most so many more times."""


Share = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares (0 to 1) of webhooks that each fault befalls. Held back means behind up to `reorder_window` later ones.

    Half of the redelivered are sent at once in parallel, half up to `delay_s` later, like the delayed ones.
    """

    seed: int = 0
    redeliver: Share = 0.0
    reorder: Share = 0.0
    reorder_window: Annotated[int, Meta(ge=1, le=10_000)] = 20
    delay: Share = 0.0
    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    drop: Share = 0.0


class Demand(StrEnum):
    """A fault on demand. All but DROP come beside the stream: no event of the world is lost by them."""

    WRONG_SECRET = "wrong_secret"  # noqa: S105 - a name, not a secret
    """Signed with another secret; never tried again."""
    CUT = "cut"
    """The connection closes in the middle of the body; then the delivery is tried again, whole."""
    OVERSIZED = "oversized"
    GARBAGE = "garbage"
    """Signed, but not to be understood."""
    DROP = "drop"
    """An event that is never sent."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One thing to send until it is answered, or just `once`. `again` is the body of later tries."""

    body: bytes
    again: bytes
    event_type: str
    delay_s: float = 0.0
    fault: str | None = None
    once: bool = False


class Disorder:
    """Applies `faults`, which may be set anew at any time, to a stream.

    The same seed, stream and demands give the same deliveries.
    """

    def __init__(self, faults: Faults, *, oversized_bytes: int) -> None:
        self.faults = faults
        self._oversized_bytes = oversized_bytes
        self._rng = random.Random(faults.seed)  # noqa: S311 - the same seed must give the same faults
        self._held: list[tuple[int, int, Dispatch]] = []
        self._taken = 0
        self._forged = 0
        self.demands: Counter[Demand] = Counter()

    def demand(self, kind: Demand, count: int) -> None:
        """Ask for the fault `count` times, from the next webhook on."""
        self.demands[kind] += count

    def take(self, webhook: Webhook) -> Iterator[Dispatch]:
        """Yield what is to be sent now that this webhook is due: maybe nothing, maybe others that were held back."""
        self._taken += 1
        yield from self._beside(webhook)
        fault = self._befalls()
        again = webhook.retry or webhook.body
        delivery = Dispatch(webhook.body, again, webhook.event_type.value, self._delay(), fault)
        if fault == Demand.DROP:
            yield delivery
            return
        if self._chance(self.faults.reorder):
            self._hold(delivery)
        else:
            yield delivery
        yield from self._copies(delivery)
        while self._held and self._held[0][0] <= self._taken:
            yield heapq.heappop(self._held)[2]

    def rest(self) -> Iterator[Dispatch]:
        """Yield what is still held back; the stream has ended."""
        while self._held:
            yield heapq.heappop(self._held)[2]

    def _chance(self, share: float) -> bool:
        return share > 0 and self._rng.random() < share

    def _delay(self) -> float:
        return self._rng.uniform(0, self.faults.delay_s) if self._chance(self.faults.delay) else 0.0

    def _hold(self, delivery: Dispatch) -> None:
        until = self._taken + self._rng.randint(1, self.faults.reorder_window)
        heapq.heappush(self._held, (until, self._taken, delivery))

    def _befalls(self) -> str | None:
        for kind in (Demand.DROP, Demand.CUT):
            if self.demands[kind]:
                self.demands[kind] -= 1
                return kind.value
        return Demand.DROP.value if self._chance(self.faults.drop) else None

    def _copies(self, delivery: Dispatch) -> Iterator[Dispatch]:
        if not self._chance(self.faults.redeliver):
            return
        late = self._chance(0.5)
        for _ in range(self._rng.randint(1, MAX_COPIES)):
            delay_s = delivery.delay_s + (self._rng.uniform(0, self.faults.delay_s) if late else 0.0)
            yield Dispatch(delivery.again, delivery.again, delivery.event_type, delay_s, "redelivery")

    def _beside(self, webhook: Webhook) -> Iterator[Dispatch]:
        for kind in (Demand.WRONG_SECRET, Demand.GARBAGE, Demand.OVERSIZED):
            while self.demands[kind]:
                self.demands[kind] -= 1
                body = self._forgery(kind, webhook)
                yield Dispatch(body, body, "other", fault=kind.value, once=kind is not Demand.GARBAGE)

    def _forgery(self, kind: Demand, webhook: Webhook) -> bytes:
        """Return a body that no webhook has: a new one at each call, except for OVERSIZED."""
        self._forged += 1
        if kind is Demand.OVERSIZED:
            return webhook.body[:-1] + b',"padding":"' + b"x" * self._oversized_bytes + b'"}'
        if kind is Demand.GARBAGE:
            return self._garbage(webhook)
        # A number in blanks at the end: still JSON, still the same event, but bytes that were never sent before.
        return webhook.body + f"{self._forged:b}".encode().translate(bytes.maketrans(b"01", b" \t"))

    def _garbage(self, webhook: Webhook) -> bytes:
        nonce = f"{self._forged}-{self._rng.getrandbits(64):x}"
        text = webhook.body.decode("utf-8")
        return self._rng.choice(
            (
                text[: len(text) // 2] + nonce,
                f"isto não é JSON {nonce}",
                f'["{nonce}"]',
                f'{{"nonce":"{nonce}","event":NaN}}',
                "[" * 5000 + nonce,
                text[:-1] + f',"event":"ticket.exploded","nonce":"{nonce}"}}',
                json.dumps({"event": "message.received", "tenantId": nonce, "timestamp": None, "data": {}}),
                text.split('"data":')[0] + f'"data":null,"nonce":"{nonce}"}}',
            )
        ).encode("utf-8", "surrogatepass")
