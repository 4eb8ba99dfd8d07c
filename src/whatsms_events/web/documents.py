"""`/contracts`: the contracts for machines as they are shipped, and a page about them for people. None has a script."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from whatsms_events.web.questions import not_found, parameters

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "index.html": "text/html",
    "style.css": "text/css",
    "asyncapi.json": "application/vnd.aai.asyncapi+json;version=3.1.0",
    "person-export.json": "application/schema+json",
    "openapi.json": "application/vnd.oai.openapi+json;version=3.1",
    "vendor.openapi.json": "application/vnd.oai.openapi+json;version=3.1",
}
"""What each file is. The others are schemas (JSON Schema 2020-12, "Media Types")."""

SCHEMA: Final = "application/schema+json"
INDEX: Final = "index.html"

HEADERS: Final[Mapping[str, str]] = {
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""No script, no frame, no form, nothing from elsewhere; and the next release's contracts are seen at once."""


class ContractFiles:
    """Serves the files by their names; the page is at `/contracts` itself."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the page and the files."""
        return [web.get("/contracts", self._index), web.get("/contracts/{file}", self._file)]

    async def _index(self, request: web.Request) -> web.Response:
        return self._answer(request, INDEX)

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["file"])

    def _answer(self, request: web.Request, name: str) -> web.Response:
        parameters(request)
        if name not in self._files:
            raise not_found()
        media_type = MEDIA_TYPES.get(name, SCHEMA)
        charset = "; charset=utf-8" if media_type.startswith("text/") else ""
        return web.Response(body=self._files[name], headers={**HEADERS, hdrs.CONTENT_TYPE: media_type + charset})
