"""The row about the event feed: what is left of ingest while many read the events as they come."""

import asyncio
import json
import sys
from statistics import median
from typing import Any, Final

import aiohttp
from bench import targets
from bench.door import CONNECTIONS
from bench.load import FailedError, Round, on
from bench.report import Bar, Finding, ratios
from bench.stage import Stage, figures, in_turns, service_door

READERS: Final = 500


async def feed(stage: Stage) -> list[Finding]:
    """Durable ingest on SQLite while 500 readers have the event feed open, against the same without them."""
    service = targets.service(stage.new_folder())
    seen: list[dict[str, int]] = []
    async with service_door(stage, service) as door, aiohttp.ClientSession() as session:
        await door.warm(CONNECTIONS)

        async def watched() -> Round:
            begin = await _end(session, service.private_url)
            with on(stage.cores.others):
                command = (str(targets.BENCH / "readers.py"), str(service.private_port), str(READERS), str(begin))
                readers = await asyncio.create_subprocess_exec(
                    sys.executable, *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
                )
            if readers.stdout is None or await readers.stdout.readline() != b"open\n":
                raise FailedError("the readers did not open their feeds")
            done = await door.round(CONNECTIONS)
            out, _ = await readers.communicate(b"")
            had: dict[str, int] = json.loads(out)
            seen.append(had | {"behind": await _end(session, service.private_url) - had["slowest"]})
            return done

        alone, with_readers = await in_turns(stage.rounds, lambda: door.round(CONNECTIONS), watched)
    case, reference = f"SQLite, {READERS} readers", "the same process without readers, in turns"
    rates = ratios([one.rate for one in with_readers], [one.rate for one in alone])
    cpus = ratios([one.cpu_us for one in alone], [one.cpu_us for one in with_readers])
    details: dict[str, object] = figures("alone", alone) | figures("with readers", with_readers)
    details |= {
        "events sent to readers/s": median(
            one["events"] / round_.seconds for one, round_ in zip(seen, with_readers, strict=True)
        ),
        "slowest reader behind at the end": median(one["behind"] for one in seen),
    }
    return [
        Finding("feed", case, reference, rates, bar=Bar(0.8, 0.9), details=details),
        Finding("feed", f"{case}: processor time", reference, cpus),
    ]


async def _end(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/api/v1/events", params={"limit": "1"}) as answer:
        shown: dict[str, Any] = await answer.json()
    return int(shown["end"])
