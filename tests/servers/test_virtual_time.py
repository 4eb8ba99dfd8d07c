"""Virtual time: waits take none, and what is real still happens."""

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web

from servers.virtual_time import run


def test_hours_pass_at_once() -> None:
    """Timers fire in their order and at their times, in far less than their time."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        fired: list[float] = []

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append(loop.time())

        async with asyncio.TaskGroup() as group:
            for seconds in (36_000.0, 60.0, 0.25, 3_600.0):
                group.create_task(wait(seconds))
        return fired

    began = time.monotonic()
    assert run(main) == pytest.approx([0.25, 60.0, 3_600.0, 36_000.0], abs=0.01)
    assert time.monotonic() - began < 5


def test_a_real_request_is_answered_before_its_deadline() -> None:
    """Client and server of the same loop talk over a real socket, while timers of both wait: none fires too early."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query["wait"]))
        return web.Response(body=b"x" * 1_000_000)

    async def main() -> tuple[int, float, float]:
        loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
                for _ in range(50):
                    async with session.get(url, params={"wait": "0"}) as response:
                        size = len(await response.read())
                quick = loop.time()
                with pytest.raises(TimeoutError):
                    await session.get(url, params={"wait": "31"})
                return size, quick, loop.time() - quick
        finally:
            await runner.cleanup()

    size, quick, slow = run(main)
    assert size == 1_000_000
    assert quick < 1
    assert slow == pytest.approx(30, abs=1)
