"""What the supervisor promises of the order in which a process stops."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.compare import until
from whatsms_events.config.settings import Settings
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import IntegrityError
from whatsms_events.service.parts import make_committer
from whatsms_events.service.stores import opened_stores
from whatsms_events.service.supervisor import Job, Supervisor
from whatsms_events.service.upstream import submit_to
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer

NOW = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
BODY = b'{"event": "ticket.closed", "tenantId": "t", "timestamp": "2026-01-15T10:30:00Z", "data": {"id": "t-1"}}'


class Idle:
    """A worker with nothing to do; it remembers what was said when it was closed."""

    active = True

    def __init__(self, said: list[str], name: str) -> None:
        self.said, self.name = said, name

    async def run_once(self) -> int:
        """Do nothing."""
        return 0

    async def look(self) -> None:
        """Find nothing."""

    async def close(self) -> None:
        """Say it."""
        self.said.append(f"{self.name} closed")


class Writer(Idle):
    """A worker whose piece hands something to the committer, but not before the door is closed."""

    def __init__(self, said: list[str], committer: Committer) -> None:
        super().__init__(said, "writer")
        self.submit = submit_to(committer)
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.outcome: Outcome | None = None

    async def run_once(self) -> int:
        """Append one event."""
        self.begun.set()
        await self.go_on.wait()
        event = normalize(BODY, tenant="t", received_at=NOW)
        self.outcome = await self.submit(Append(event, BODY, hashlib.sha256(BODY).digest()))
        return 1


async def test_what_a_writer_hands_over_while_it_stops_is_committed_and_the_readers_end_last(tmp_path: Path) -> None:
    """The piece that a stopping writer still does gets its commit, which wakes the readers: they have not been stopped
    yet. Nothing is left of the committer or of any worker at the end.
    """
    settings, supervisor, said = Settings(data_dir=tmp_path), Supervisor(), list[str]()
    async with opened_stores(settings, migrate=True) as stores:
        committer = make_committer(settings, stores.log, supervisor.wake)
        writer, reader = Writer(said, committer), Job("consumer", Idle(said, "reader"), 60)

        async def close_door() -> None:
            said.append("door closed")
            assert not reader.bell.stopping
            writer.go_on.set()

        async with asyncio.timeout(60):
            async with supervisor.running(
                committer, writers=[Job("backfill.acme", writer, 60)], readers=[reader], close_door=close_door
            ):
                await writer.begun.wait()
    assert writer.outcome is not None
    assert said == ["door closed", "writer closed", "reader closed"]


class Halted(Idle):
    """A worker that halts at once."""

    async def run_once(self) -> int:
        """Halt."""
        raise IntegrityError("log and Kafka disagree")


@pytest.mark.parametrize(("advice", "why"), [("", ""), ("Look again.", ". Look again.")])
async def test_a_halted_role_ends_no_process_and_says_why(advice: str, why: str) -> None:
    """The others go on, and the reason stands beside the role, with the advice where there is one."""
    supervisor, said = Supervisor(advice=advice), list[str]()
    jobs = [Job("relay", Halted(said, "relay"), 60), Job("consumer", Idle(said, "consumer"), 60)]
    async with supervisor.running(None, writers=[], readers=jobs):
        await until(lambda: supervisor.halted, 60, "the relay halted")
        assert supervisor.halted == {"relay": f"log and Kafka disagree{why}"}
        assert said == []
    assert sorted(said) == ["consumer closed", "relay closed"]


class Broken(Idle):
    """A worker with a bug."""

    async def run_once(self) -> int:
        """Fail."""
        raise ZeroDivisionError


async def test_a_bug_of_one_worker_ends_all() -> None:
    """What no loop retries ends the body and closes every worker, and comes out."""
    said = list[str]()
    jobs = [Job("relay", Broken(said, "relay"), 60), Job("consumer", Idle(said, "consumer"), 60)]
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(60), Supervisor().running(None, writers=[], readers=jobs):
            await asyncio.Event().wait()
    assert caught.group_contains(ZeroDivisionError)
    assert sorted(said) == ["consumer closed", "relay closed"]
