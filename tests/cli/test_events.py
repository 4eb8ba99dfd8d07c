"""The event log as a person reads it: `events list`, `show` and `tail` beside a running service."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cli.commands import Done, make_log, run, run_raw
from servers.service import SECRET, SLUG, TENANT, Service
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process


HOSTILE = "\x1b[2J\x07\n8  forged\u202e\x9b31m"
"""Clears a terminal, rings its bell, begins a line of its own, turns the order of letters round."""


def body(number: int, event: str = "ticket.updated", more: str = "") -> bytes:
    """Return a delivery about a ticket."""
    data = {"ticket": {"id": f"t-{number}{more}", "status": "open", "contact": {"id": "c-1", "name": "João"}}}
    envelope = {"event": event, "tenantId": TENANT, "timestamp": "2026-01-15T10:30:00Z", "data": data}
    return json.dumps(envelope).encode()


async def post(session: aiohttp.ClientSession, service: Service, raw: bytes) -> None:
    """Send a signed delivery."""
    async with session.post(service.webhook_url, data=raw, headers={HEADER: sign(raw, SECRET.encode())}) as answer:
        assert answer.status == 200


async def test_the_log_is_listed_shown_and_followed(tmp_path: Path) -> None:
    """The last events, those behind a position, of one type; one as JSON and to the byte; and new
    ones as they come, also after the process was killed; why a feed ended; without a process there is nothing to
    follow. An id that a terminal would obey is shown with marks, on one line, and is whole as JSON.
    """
    service = Service(tmp_path / "service")

    def events(*words: object) -> Done:
        return run(service.folder, "events", *map(str, words), "--config", str(service.config), config=None)

    await service.start()
    async with aiohttp.ClientSession() as session:
        for number in range(1, 6):
            await post(session, service, body(number, "ticket.closed" if number == 2 else "ticket.updated"))
        everything = events("list").out
        assert [line.split("  ")[0] for line in everything] == ["1", "2", "3", "4", "5"]
        assert everything[1].split("  ")[2:] == [SLUG, "ticket.closed", "t-2"]
        assert events("list", "--limit", 2).out == everything[3:]
        assert events("list", "--after", 1, "--limit", 2).out == everything[1:3]
        assert events("list", "--type", "ticket.closed").out == [everything[1]]
        assert events("list", "--limit", 1, "--type", "ticket.closed", "--tenant", SLUG).out == [everything[1]]

        async with session.get(f"{service.private_url}/api/v1/events/2") as answer:
            shown: dict[str, Any] = await answer.json()
        assert json.loads("".join(events("show", 2).out)) == shown
        listed = [json.loads(line) for line in events("list", "--json").out]
        assert [one["position"] for one in listed] == [1, 2, 3, 4, 5]
        words = ("events", "show", "2", "--raw", "--config", str(service.config))
        assert run_raw(service.folder, *words, config=None).stdout == body(2, "ticket.closed")

        assert events("tail", "--type", "nothing").status == 2
        assert events("tail", "--tenant", "nobody").status == 2
        follow = ("-m", "whatsms_events", "events", "tail", "--after", "4", "--config", str(service.config))
        tail = await asyncio.create_subprocess_exec(
            *(sys.executable, *follow),
            cwd=service.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert tail.stdout is not None
        assert tail.stderr is not None
        async with asyncio.timeout(120):
            assert (await tail.stdout.readline()).decode().strip() == everything[4]
            await post(session, service, body(6))
            assert (await tail.stdout.readline()).startswith(b"6  ")
            await service.kill()
            await service.start()
            await post(session, service, body(7, more=HOSTILE))
            line = (await tail.stdout.readline()).decode()
            assert line.split("  ")[4:] == ["t-7\ufffd[2J\ufffd\ufffd8", "forged\ufffd\ufffd31m\n"]
            assert f"{events('list', '--limit', 1).out[0]}\n" == line
            assert json.loads(events("list", "--limit", 1, "--json").out[0])["subject"] == f"t-7{HOSTILE}"
            assert json.loads("".join(events("show", 7).out))["subject"] == f"t-7{HOSTILE}"
            await service.stop()
            while (said := await tail.stderr.readline()) != b"the feed has ended: this process stops; trying again\n":
                assert said, "the reason is said"
            tail.send_signal(signal.SIGTERM)
            assert await tail.wait() == 0
    assert events("tail", "--after", "4").status == 1


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """An empty log lists nothing; a position that holds nothing is status 1; an unknown tenant is status 2."""
    make_log(tmp_path / "var")
    assert run(tmp_path, "events", "list") == Done(0, [], [])
    assert run(tmp_path, "events", "show", "7") == Done(1, [], ["NotFoundError: no event at position 7"])
    assert run(tmp_path, "events", "list", "--type", "nothing").status == 2
