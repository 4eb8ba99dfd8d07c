"""Where things are in the console, and what a page was asked for: ids are opaque, so they stand in queries alone.

An id may be ".." or hold a slash, which a path would not survive.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

from whatsms_events.domain.bodies import is_storable
from whatsms_events.web.console.frame import ConsoleTenant, Visit
from whatsms_events.web.questions import bad, not_found

CONVERSATIONS = "/conversations"
TICKET = "/conversations/ticket"
MESSAGE = "/conversations/message"
PASSPORT = "/passport"
ACKS = "/acks"


def place(path: str, **query: object) -> str:
    """Return a path with a query, of what is given."""
    given = {name: str(value) for name, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


def asked_of(visit: Visit) -> Mapping[str, str]:
    """Return the query, each name once; raise 400 for what no database could hold."""
    found: dict[str, str] = {}
    for name, value in visit.request.query.items():
        if not is_storable(value):
            raise bad(ascii(name)[1:-1][:64], "is not text")
        if value:
            found.setdefault(name, value)
    return found


def tenant_of(visit: Visit, asked: Mapping[str, str]) -> tuple[str, ConsoleTenant] | None:
    """Return the tenant that a page is about, by slug: the one that is named, else the first; None where there is none.

    Raise 404 for one that is not configured.
    """
    tenants = visit.frame.tenants
    if "tenant" not in asked:
        return next(iter(tenants.items()), None)
    slug = asked["tenant"]
    if slug not in tenants:
        raise not_found()
    return slug, tenants[slug]


def named_tenant(visit: Visit, asked: Mapping[str, str]) -> tuple[str, ConsoleTenant]:
    """Return the tenant as `tenant_of` does; raise 404 where no tenant is configured."""
    found = tenant_of(visit, asked)
    if found is None:
        raise not_found()
    return found
