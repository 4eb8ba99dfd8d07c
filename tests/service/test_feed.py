"""The event feed of real processes: a reader goes through kills, restarts and drains, and has the log to the event."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers.compare import until
from servers.service import Service, command
from test_journey import delivery, get, post
from whatsms_events.consume import FeedReader

pytestmark = pytest.mark.process


class Follower:
    """A consumer that asks again, with its last id, whenever its feed breaks off or ends; `why` are the last words."""

    def __init__(self, service: Service) -> None:
        self.positions: list[int] = []
        self.why: list[str] = []
        self._feed = FeedReader()
        self._url = f"{service.private_url}/api/v1/stream"

    async def follow(self, stop: Callable[[], bool]) -> None:
        """Follow until `stop` says so after an event."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not stop():
                try:
                    await self._read(session, stop)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)  # killed or starting anew: nothing tells when it answers

    async def _read(self, session: aiohttp.ClientSession, stop: Callable[[], bool]) -> None:
        async with session.get(self._url, headers={"Last-Event-ID": self._feed.reopen()}) as answer:
            assert answer.status in (200, 503), await answer.text()
            async for line in answer.content:
                sent = self._feed.line(line)
                if sent is not None and sent.ended:
                    self.why.append(json.loads(sent.data)["reason"])
                elif sent is not None:
                    self.positions.append(json.loads(sent.data)["position"])
                if stop():
                    return


async def send(session: aiohttp.ClientSession, service: Service, first: int, count: int) -> None:
    """Have so many deliveries accepted, several at a time."""
    bodies = [delivery("ticket.updated", "2026-01-15T10:30:00Z", ticket={"id": f"t-{first + n}"}) for n in range(count)]
    answers: list[dict[str, Any]] = await asyncio.gather(*(post(session, service, body) for body in bodies))
    assert {answer["status"] for answer in answers} == {200}


async def test_a_reader_goes_through_kills_and_drains_without_a_gap(database_url: str, tmp_path: Path) -> None:
    """Deliveries come in before, between and after a SIGKILL and a stop in good order: a reader that asks again with
    its last id has every position of the log once, in order, and was told of the stop.
    """
    service = Service(tmp_path / "service", roles="receiver", settings={"database": {"url": database_url}})
    if database_url.startswith("postgresql"):
        command(service, "db", "upgrade")
    await service.start()
    follower, sent = Follower(service), 0
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.follow(lambda: len(follower.positions) >= 120))
        for ending in (service.kill, service.stop, None):
            await send(session, service, sent, 40)
            sent += 40
            # Before the kill the reader has some of these and not others; before the stop it has them all, and waits.
            few = sent - 40 + 1 if ending == service.kill else sent
            await until(lambda few=few: len(follower.positions) >= few, 60, "the feed")  # type: ignore[misc]
            if ending is not None:
                await ending()
                await service.start()
        await following
        log: list[dict[str, Any]] = []
        while len(
            page := (await get(session, service, f"/api/v1/events?after={log[-1]['position'] if log else 0}"))["events"]
        ):
            log += page
    assert follower.positions == [row["position"] for row in log]
    assert "stopping" in follower.why
    await service.stop()
