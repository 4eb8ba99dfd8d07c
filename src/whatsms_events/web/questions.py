"""This module checks the parameters of the read API's requests, and builds its answers.

A parameter that cannot be read is 400, and the answer names it. Errors are problem+json (RFC 9457).
"""

import base64
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from whatsms_events.domain.bodies import is_storable
from whatsms_events.storage.reads import PAGE_LIMIT, PageKey, RowPage, RowView
from whatsms_events.web.answers import RETRY_AFTER_S
from whatsms_events.web.views import shown_page

DEFAULT_LIMIT: Final = 50
TOP: Final = 2**63 - 1
"""The highest position that a database can hold."""

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=TOP)]
BY_ARRIVAL: Final = msgspec.json.Decoder(tuple[Int64, UUID])
BY_PLACE: Final = msgspec.json.Decoder(tuple[str, Int64])
"""How places in the lists of parked deliveries and of parked events are written, see `key_after`."""

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
HEADERS: Final[Mapping[str, str]] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Answers hold what people wrote: no cache may keep them, no browser may take them for a page."""


def parameters(request: web.Request, *allowed: str) -> dict[str, str]:
    """Return the query by name; 400 for one we do not know (a misspelt filter must not show everything) or doubled."""
    asked: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in allowed:
            raise bad(ascii(name)[1:-1][:64], "is not known here")
        if name in asked:
            raise bad(name, "is given twice")
        if not is_storable(value):
            raise bad(name, "is not text")
        asked[name] = value
    return asked


def entity_id(request: web.Request) -> str:
    """Return the id in the path; raise 404 for what no database could hold."""
    value = request.match_info["id"]
    if not is_storable(value):
        raise not_found()
    return value


def position(request: web.Request) -> int:
    """Return the position in the path; raise 404 for one that no log could have."""
    digits = request.match_info["position"]
    if not _DIGITS.fullmatch(digits) or int(digits) > TOP:
        raise not_found()
    return int(digits)


def page_limit(asked: Mapping[str, str]) -> int:
    """Return how long a page may be; raise 400."""
    return number(asked, "limit", DEFAULT_LIMIT, 1, PAGE_LIMIT)


def number(asked: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a number within its bounds; raise 400."""
    text = asked.get(name, str(default))
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
        raise bad(name, f"must be a whole number from {low} to {high}")
    return int(text)


def one_of(asked: Mapping[str, str], name: str, values: Mapping[str, T]) -> T | None:
    """Return the member that the parameter names, None where it is not given; raise 400 for an unknown name."""
    if name not in asked:
        return None
    if asked[name] not in values:
        raise bad(name, f"must be one of {', '.join(values)}")
    return values[asked[name]]


def key_after(asked: Mapping[str, str], key: msgspec.json.Decoder[Any]) -> PageKey | None:
    """Return the key in the `next` of an earlier page, None on the first; raise 400."""
    text = asked.get("after")
    if text is None:
        return None
    try:
        found: PageKey = key.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, msgspec.MsgspecError) as exc:
        raise bad("after", "is not the `next` of such a list") from exc
    if not all(is_storable(part) for part in found if isinstance(part, str)):
        raise bad("after", "is not the `next` of such a list")
    return found


def page_answer(plural: str, page: RowPage, **more: object) -> web.Response:
    """Return a page of rows with the opaque `next` to go on after."""
    return json_answer(shown_page(plural, page, **more))


def one_answer(found: RowView | None) -> web.Response:
    """Return one row; raise 404 where there is none."""
    if found is None:
        raise not_found()
    return json_answer(found)


def json_answer(value: object) -> web.Response:
    """Return the value as JSON that nobody caches."""
    return web.Response(body=_encoder.encode(value), content_type="application/json", headers=HEADERS)


def bad(name: str, what: str) -> web.HTTPException:
    """Return 400 for a parameter."""
    return refusal(web.HTTPBadRequest, f"{name} {what}", parameter=name)


def not_found() -> web.HTTPException:
    """Return 404."""
    return refusal(web.HTTPNotFound, "there is nothing here by that name")


def busy(detail: str) -> web.HTTPException:
    """Return 503, with when to come again."""
    headers = {**HEADERS, hdrs.RETRY_AFTER: str(RETRY_AFTER_S)}
    return refusal(web.HTTPServiceUnavailable, detail, headers=headers)


def refusal(
    kind: type[web.HTTPException], detail: str, *, headers: Mapping[str, str] = HEADERS, **more: str
) -> web.HTTPException:
    """Return a refusal that says what was wrong; `more` are further members of its body."""
    status = HTTPStatus(kind.status_code)
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **more}
    return kind(
        text=_encoder.encode(body).decode(),
        content_type="application/problem+json",
        headers=headers,
    )
