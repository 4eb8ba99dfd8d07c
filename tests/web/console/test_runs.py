"""A run that is started in the console of a real process, watched there, and one that is stopped there."""

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers.compare import until
from servers.service import SLUG, Service
from servers.upstream import account, sections
from whatsms_events.twin.rest.limits import RestLimits

pytestmark = [pytest.mark.process, pytest.mark.twin]


async def test_a_run_is_started_watched_and_stopped(tmp_path: Path) -> None:
    """The button starts a run of the account, the piece that a browser asks for again shows it finished with what it
    found, another run is stopped before its end, and the page says in whose name.
    """
    async with account(minutes=2) as there, aiohttp.ClientSession() as session:
        settings = sections(there.url, backfill={"interval_s": 0, "outage_s": 0, "repair_interval_s": 0})
        service = Service(tmp_path / "service", roles="receiver,consumer,backfill", settings=settings)
        await service.start()

        async def page(path: str = "/repair/piece") -> str:
            async with session.get(service.private_url + path) as answer:
                assert answer.status == 200
                return await answer.text()

        def shown(words: str) -> Callable[[], Coroutine[Any, Any, bool]]:
            async def there_now() -> bool:
                return words in await page()

            return there_now

        async def press(action: str) -> str:
            mark = re.search(r'name="mark" value="([0-9a-f]{64})"', await page("/repair"))
            assert mark is not None
            form = {"mark": mark[1], "tenant": SLUG}
            headers = {"Origin": service.private_url, "Sec-Fetch-Site": "same-origin"}
            async with session.post(service.private_url + action, data=form, headers=headers) as answer:
                assert answer.status == 200
                return await answer.text()

        assert "is asked for" in await press("/repair/start")
        await until(shown("finished</span>"), 60, "the run has finished")
        text = await page()
        assert "console</td>" in text
        assert "What the last run over everything found" in text
        there.rest.limits = RestLimits(requests=0)
        await press("/repair/start")
        await until(shown("Stop this run"), 60, "the second run has begun")
        assert f"Run 2 of {SLUG} is stopped" in await press("/repair/stop")
        assert "by <bdi>anybody</bdi>" in await page()
        await service.stop()
