"""Makes every document of the contracts, as the bytes that are committed, shipped and served."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from whatsms_events import __version__
from whatsms_events.contracts.asyncapi import TopicWords, asyncapi
from whatsms_events.contracts.listener import private_routes
from whatsms_events.contracts.openapi import read_api
from whatsms_events.contracts.prose import header_prose, read_api_prose, topic_prose
from whatsms_events.contracts.published import INDEX
from whatsms_events.contracts.reading import STYLE, reading_page
from whatsms_events.contracts.schemas import DIALECT, event_schema
from whatsms_events.contracts.vendor import vendor_api
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.events import EventType

_REFERENCE: Final = re.compile(r"#/components/schemas/(\w+)")

_SECTIONS: Final[Mapping[str, str]] = {
    "Ticket": "Tickets",
    "Message": "Messages",
    "Contact": "Contacts",
    "Campaign": "Campaigns",
}


def documents(read_api_page: str, events_page: str, *, prefix: str, private_url: str) -> dict[str, JsonObject]:
    """Return every document by the name of its file.

    `read_api_page` and `events_page` are docs/read-api.md and docs/events-and-kafka.md. Raise LookupError for a route,
    a header or a field that nothing describes.
    """
    prose = read_api_prose(read_api_page)
    words = {name: prose.fields[section] for name, section in _SECTIONS.items()}
    topics = TopicWords(header_prose(events_page), topic_prose(events_page))
    reading = read_api(private_routes(), prose, version=__version__, url=private_url)
    return {
        "asyncapi.json": asyncapi(words, topics, version=__version__, prefix=prefix),
        "openapi.json": reading,
        "person-export.json": _alone("PersonExport", reading["components"]["schemas"]),
        "vendor.openapi.json": vendor_api(version=__version__),
        **{f"{one}.schema.json": event_schema(one, words) for one in EventType},
    }


def _alone(name: str, components: Mapping[str, JsonObject]) -> JsonObject:
    """Return a component as a document of its own, with those that it refers to."""
    needed: dict[str, JsonObject] = {}
    waiting = [components[name]]
    while waiting:
        for inner in _REFERENCE.findall(msgspec.json.encode(waiting.pop()).decode()):
            if inner not in needed:
                needed[inner] = components[inner]
                waiting.append(components[inner])
    whole = msgspec.json.encode({"$schema": DIALECT, **components[name], "$defs": dict(sorted(needed.items()))})
    moved: JsonObject = msgspec.json.decode(whole.replace(b"#/components/schemas/", b"#/$defs/"))
    return moved


def contract_files(made: Mapping[str, JsonObject]) -> dict[str, bytes]:
    """Return the documents as their files hold them, and the page for people with its style."""
    documents = {name: msgspec.json.format(msgspec.json.encode(one), indent=1) + b"\n" for name, one in made.items()}
    return documents | {INDEX: reading_page(made).encode(), "style.css": STYLE.encode()}
