"""The private listener's application around some of its parts, as the service makes it."""

from aiohttp import web

from whatsms_events.domain.scopes import SCOPES, Scope
from whatsms_events.web.access import Access, NamedToken
from whatsms_events.web.app import Routes, private_app
from whatsms_events.web.health import Health

TOKEN = "tøken of the tests"


def probes() -> Health:
    """Return probes of a process that is well."""
    return Health(checks={}, needs={}, roles=dict, details=dict, starting=lambda: None, draining=bool)


def asking(token: str | None = TOKEN, scopes: frozenset[Scope] = SCOPES) -> Access:
    """Return an access that knows one token, or asks for none; a wrong one waits for nothing."""
    tokens = [] if token is None else [NamedToken("tests", token.encode(), scopes)]
    return Access(tokens, wrong_s=0)


def listener(*parts: Routes, token: str | None = TOKEN) -> web.Application:
    """Return an application of these parts and the probes."""
    return private_app(asking(token), probes(), *parts)


def bearer(token: str = TOKEN) -> dict[str, str]:
    """Return the header that shows a token."""
    return {"Authorization": f"Bearer {token}"}
