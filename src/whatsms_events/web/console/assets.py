"""The files that pages need: style, script and icon, shipped in the wheel, named by their content, kept by browsers."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from whatsms_events.web.questions import not_found

FOLDER: Final = Path(__file__).with_name("static")
MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS: Final[Mapping[str, str]] = {
    hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

VENDORED: Final[Mapping[str, str]] = {
    "htmx.min.js": "sha384-Qp9rdC8H7EqOoX+nR0P3RPG2Noji+qdwJlGpfzwQJsfOpp3sGwIdSP9xO3+UlEhn",
}
"""Files that others wrote, and what they must be. htmx is `dist/htmx.min.js` of htmx.org 4.0.1 in npm's registry, where
sha512-oF7JgXhDW9UXCy/k1ZYFUQgzu/rm19ORWPSPNL91vPluB2PB9+MV55tyQdH/w7o2EAbTYUG5SDW1R60mdkdqGg== stands for the archive.
"""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, its URL, and the value of the `integrity` attribute by which a browser checks it."""

    name: str
    body: bytes
    url: str
    integrity: str


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    integrity = "sha384-" + base64.b64encode(hashlib.sha384(body).digest()).decode()
    return Asset(path.name, body, f"/static/{hashlib.sha256(body).hexdigest()[:16]}/{path.name}", integrity)


class Assets:
    """Serves the files. Another content has another URL, so a browser never shows a page with an old style."""

    def __init__(self, folder: Path) -> None:
        self._assets = {path.name: _asset(path) for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES}
        self._by_url = {one.url: one for one in self._assets.values()}

    def __getitem__(self, name: str) -> Asset:
        """Return a file by its name."""
        return self._assets[name]

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/static/{digest}/{name}", self._file)]

    async def _file(self, request: web.Request) -> web.Response:
        asset = self._by_url.get(request.path)
        if asset is None:
            raise not_found()
        media_type = MEDIA_TYPES[Path(asset.name).suffix]
        return web.Response(body=asset.body, headers={**HEADERS, hdrs.CONTENT_TYPE: media_type})


@cache
def shipped_assets() -> Assets:
    """Return the files of this package, read once."""
    return Assets(FOLDER)
