"""Deliveries are judged by the committer, many at a time: each gets its own verdict, whatever the others are."""

import asyncio
import contextlib
import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, ItemsView, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.metric import sample
from storage.log.test_committer import DEADLINE_S, append, opened, rows
from whatsms_events.domain.signature import given, sign
from whatsms_events.domain.verdicts import Delivery
from whatsms_events.errors import OverloadedError, SignatureError, StorageUnavailableError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import JUDGE_LIMIT, LOOK_S, Committer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET = b"whsec-delivering"


def body(number: int) -> bytes:
    """Return a body that becomes an event."""
    data = {"message": {"id": f"m-{number}", "body": "hello"}}
    envelope = {"event": "message.received", "timestamp": "2026-11-23T11:59:58Z", "data": data}
    return json.dumps(envelope).encode()


def delivery(
    raw: bytes, *, secret: bytes = SECRET, tenant: str = "acme", secrets: Mapping[str, bytes] | None = None
) -> Delivery:
    """Return a delivery signed with this secret."""
    digest = given([sign(raw, secret)])
    return Delivery(tenant, tenant, secrets or {"current": SECRET}, digest, raw, None, NOON)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Give an empty log; what is judged does not depend on the kind of database."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as found:
        yield found


def committer_of(
    database: Database, *, queue_limit: int = 1000, batch_limit: int = 500, shared: bool = False
) -> Committer:
    """Return a committer that nobody runs yet."""
    return Committer(
        database,
        batch_limit=batch_limit,
        queue_limit=queue_limit,
        queue_limit_bytes=1 << 28,
        on_commit=lambda _end: None,
        shared=shared,
    )


@asynccontextmanager
async def running(committer: Committer) -> AsyncIterator[None]:
    """Run a committer, and let it commit what is queued at the end."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(committer.run(stop))
        try:
            yield
        finally:
            stop.set()


async def outcomes(committer: Committer, deliveries: list[Delivery]) -> list[Outcome | BaseException]:
    """Deliver all at once."""
    waits = (committer.deliver(one, deadline_s=DEADLINE_S) for one in deliveries)
    return await asyncio.gather(*waits, return_exceptions=True)


async def test_each_delivery_of_a_batch_gets_its_own_verdict(database: Database) -> None:
    """A right signature, a wrong one, a body that nobody understands and a redelivery, all in one batch."""
    committer = committer_of(database)
    wrong = delivery(body(2), secret=b"another")
    async with running(committer):
        found = await outcomes(committer, [delivery(body(1)), wrong, delivery(b"{"), delivery(body(1))])
    kinds = [one.kind if isinstance(one, Outcome) else type(one).__name__ for one in found]
    assert kinds == ["accepted", "SignatureError", "parked", "duplicate"]
    assert [raw for _, _, raw in await rows(database)] == [body(1)]


async def test_a_mistake_in_judging_one_delivery_stops_no_other(database: Database) -> None:
    """A verdict that fails for a reason nobody foresaw is raised to that delivery alone; the others are committed."""

    class Broken(dict[str, bytes]):
        def items(self) -> Iterator[tuple[str, bytes]]:  # type: ignore[override]
            raise RuntimeError("a mistake of ours")

    committer = committer_of(database)
    broken = delivery(body(2), secrets=Broken({"current": SECRET}))
    async with running(committer):
        found = await outcomes(committer, [delivery(body(1)), broken, delivery(body(3))])
    assert isinstance(found[1], RuntimeError)
    assert [raw for _, _, raw in await rows(database)] == [body(1), body(3)]


async def test_a_wrong_signature_is_refused_while_nothing_can_be_committed(database: Database) -> None:
    """Although no commit runs, a delivery that nobody signed is refused, and gives its place in the queue back."""
    committer = committer_of(database, queue_limit=1)
    for number in range(3):
        with pytest.raises(SignatureError):
            await committer.deliver(delivery(body(number), secret=b"another"), deadline_s=DEADLINE_S)


async def test_a_committer_goes_on_when_all_that_waits_passes_its_deadline_at_once(database: Database) -> None:
    """A loop that is held up finds that nobody waits any more, while it gathers a batch: that is no end of the run."""

    class Slow(dict[str, bytes]):
        def items(self) -> ItemsView[str, bytes]:  # type: ignore[override]
            time.sleep(2 * LOOK_S)  # the loop is held up until a look at the deadlines is due
            return super().items()

    committer = committer_of(database, queue_limit=4 * JUDGE_LIMIT, batch_limit=4 * JUDGE_LIMIT)
    async with running(committer):
        slow = [delivery(body(0), secrets=Slow({"current": SECRET}))]
        late = slow + [delivery(body(number)) for number in range(1, 4 * JUDGE_LIMIT)]
        waits = (committer.deliver(one, deadline_s=0) for one in late)
        found = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(one).__name__ for one in found} == {"OverloadedError"}
        assert (await committer.deliver(delivery(body(0)), deadline_s=DEADLINE_S)).kind == "accepted"


async def test_a_delivery_that_is_not_committed_in_time_is_told_so(database: Database) -> None:
    """At its deadline a delivery is refused, is forgotten, and gives its place back."""
    committer = committer_of(database, queue_limit=1)
    for _ in range(2):
        with pytest.raises(OverloadedError, match="deadline"):
            await committer.deliver(delivery(body(1)), deadline_s=0)
    async with running(committer):
        pass
    assert await rows(database) == []


async def test_a_committer_that_takes_nothing_judges_nothing(database: Database) -> None:
    """While the log cannot take anything every delivery is told to come again, whoever signed it."""
    committer = committer_of(database)
    committer.refuse("starting")
    for secret in (SECRET, b"another"):
        with pytest.raises(StorageUnavailableError, match="starting"):
            await committer.deliver(delivery(body(1), secret=secret), deadline_s=DEADLINE_S)


async def test_a_full_queue_judges_nothing(database: Database) -> None:
    """Limits come before signatures: a flood of strangers costs no more than the places of the queue."""
    committer = committer_of(database, queue_limit=2)
    async with running(committer):
        found = await outcomes(committer, [delivery(body(number), secret=b"another") for number in range(5)])
    assert [type(one) for one in found] == [SignatureError] * 2 + [OverloadedError] * 3


async def test_what_arrived_first_stands_first(database: Database) -> None:
    """An item that is submitted behind a delivery gets a later position, although it needs no judgement."""
    committer = committer_of(database)
    item = append(1)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(committer.deliver(delivery(body(1)), deadline_s=DEADLINE_S))
        await asyncio.sleep(0)
        tasks.create_task(committer.submit(item, deadline_s=DEADLINE_S))
        await asyncio.sleep(0)
        async with running(committer):
            pass
    assert [raw for _, _, raw in await rows(database)] == [body(1), item.raw]


async def test_a_tenant_that_floods_leaves_places_to_the_others(database: Database) -> None:
    """One tenant fills its part of the queue; another one's delivery is still taken, and committed."""
    committer = committer_of(database, queue_limit=10, shared=True)
    flood = [delivery(body(number), tenant="flood") for number in range(20)]
    async with running(committer):
        found = await outcomes(committer, [*flood, delivery(body(99), tenant="calm")])
    refused = [isinstance(one, OverloadedError) for one in found]
    assert refused == [False] * 5 + [True] * 15 + [False]


async def test_a_commit_takes_all_that_a_batch_may_have(database: Database) -> None:
    """More deliveries than are judged in one piece, and within the limits of a batch, are one commit."""
    committer = committer_of(database)
    before = sample("whatsms_events_commit_deliveries_count") or 0.0
    count = JUDGE_LIMIT + 100
    waits = [asyncio.create_task(committer.deliver(delivery(body(n)), deadline_s=DEADLINE_S)) for n in range(count)]
    await asyncio.sleep(0)
    async with running(committer):
        found = await asyncio.gather(*waits)
    assert {one.kind for one in found} == {"accepted"}
    assert sample("whatsms_events_commit_deliveries_count") == before + 1
    assert [raw for _, _, raw in await rows(database)] == [body(n) for n in range(count)]


class Watched(dict[str, bytes]):
    """Secrets that can be watched: they live as long as the delivery does, and so its body."""


@pytest.mark.parametrize("secret", [SECRET, b"another"], ids=["at its deadline", "for its signature"])
async def test_a_refused_delivery_is_freed_at_once(database: Database, secret: bytes) -> None:
    """Nothing keeps a refused body until the collector runs, which is seldom: a flood would fill the memory."""
    committer = committer_of(database)
    secrets = Watched({"current": SECRET})
    watch = weakref.ref(secrets)

    async def refused(one: Delivery) -> None:
        with contextlib.suppress(SignatureError, OverloadedError):
            await committer.deliver(one, deadline_s=0.1)
            raise AssertionError

    gc.collect()
    gc.disable()
    try:
        waiting = asyncio.create_task(refused(delivery(body(1), secret=secret, secrets=secrets)))
        del secrets
        await waiting
        del waiting
        await asyncio.sleep(0)
        assert watch() is None
    finally:
        gc.enable()
