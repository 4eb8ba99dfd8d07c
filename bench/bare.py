"""What everything is compared with: aiohttp on asyncio with a router, a body that is read, and an empty 204."""

import sys

from aiohttp import web


async def take(request: web.Request) -> web.Response:
    """Read the body and forget it."""
    await request.read()
    return web.Response(status=204)


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.post("/webhooks/{slug}", take)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
