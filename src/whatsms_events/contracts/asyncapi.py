"""AsyncAPI 3.1 of what the service publishes to Kafka, and of the webhook that comes in.

Kafka records are CloudEvents 1.0 in binary mode: `domain/records` writes their headers, `domain/events` their values.
The vendor's deliveries are described as its page documents them (`domain/documented`); what is read goes further.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from whatsms_events.contracts.schemas import Words, components, row
from whatsms_events.domain import signature
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.documented import CampaignData, ContactData, MessageData, TicketData
from whatsms_events.domain.events import OURS, SHAPES, Entity, EventType, Origin, entity
from whatsms_events.domain.records import OPTIONAL, READERS, TOPICS, TYPE_PREFIX, topic_of

VERSION: Final = "3.1.0"
_KAFKA: Final = "0.5.0"
_HTTP: Final = "0.3.0"
_TEMPLATE: Final = "#/components/schemas/{name}"

_ID: Final[JsonObject] = {"type": "string", "format": "uuid"}
_TIME: Final[JsonObject] = {"type": "string", "format": "date-time"}
_TEXT: Final[JsonObject] = {"type": "string"}

_HEADERS: Final[Mapping[str, JsonObject]] = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": _ID,
    "ce_type": {"type": "string", "enum": [f"{TYPE_PREFIX}{one}" for one in EventType]},
    "ce_source": {"type": "string", "format": "uri-reference"},
    "ce_time": _TIME,
    "ce_subject": _TEXT,
    "ce_tenant": _TEXT,
    "ce_origin": {"type": "string", "enum": list(get_args(Origin))},
    "ce_recordedtime": _TIME,
    "ce_logid": _ID,
    "ce_sequence": {"type": "string", "pattern": "^[0-9]{19}$"},
    "ce_ticketid": _TEXT,
    "ce_contactid": _TEXT,
    "ce_messageid": _TEXT,
    "content-type": {"type": "string", "const": "application/json"},
}
"""The form of each header's value. Which ones there are `records` says; a header that is not here is an error."""

_WRITTEN_ONLY: Final = frozenset(("ce_source", "content-type"))
"""Headers that a reader of ours does not need, since they follow from others."""

_TOLD: Final[Mapping[Entity, type]] = {
    "message": MessageData,
    "ticket": TicketData,
    "contact": ContactData,
    "campaign": CampaignData,
}


@dataclass(frozen=True, slots=True)
class TopicWords:
    """What `docs/events-and-kafka.md` says of each header, and of the key in each topic."""

    headers: Mapping[str, str]
    keys: Mapping[str, str]


def asyncapi(words: Words, topics: TopicWords, *, version: str, prefix: str) -> JsonObject:
    """Return the document; raise LookupError for a header that nothing describes."""
    told = [one for one in EventType if one not in OURS]
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "whatsms-events",
            "version": version,
            "description": "Events of WhatSMS, a helpdesk: each one exactly once, in the log's order within its "
            "partition. Consumers must read with `isolation.level=read_committed`.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(),
        "channels": {
            **{topic: _topic(topic, prefix) for topic in TOPICS},
            "webhook": _webhook(told),
        },
        "operations": _operations(),
        "components": {
            "messages": {
                **{f"published.{one}": _record(one, topics) for one in EventType},
                **{f"delivered.{one}": _delivery(one) for one in told},
            },
            "schemas": {
                **components(SHAPES.values(), _TEMPLATE, words=words),
                **{name: open_schema(schema) for name, schema in components(_TOLD.values(), _TEMPLATE).items()},
                "Headers": _headers(topics.headers),
            },
        },
    }


def _servers() -> JsonObject:
    return {
        "kafka": {
            "host": "{bootstrap}",
            "protocol": "kafka",
            "description": "`kafka.bootstrap_servers`.",
            "variables": {"bootstrap": {"default": "kafka.example:9092"}},
        },
        "receiver": {
            "host": "{host}",
            "protocol": "https",
            "description": "The public listener, behind a proxy that speaks HTTPS.",
            "variables": {"host": {"default": "your.host"}},
        },
    }


def _topic(topic: str, prefix: str) -> JsonObject:
    types = [one for one in EventType if topic_of(one) == topic]
    return {
        "address": f"{{prefix}}.{topic}",
        "title": topic.capitalize(),
        "servers": [{"$ref": "#/servers/kafka"}],
        "parameters": {"prefix": {"default": prefix, "description": "What `kafka.topic_prefix` is set to."}},
        "messages": {one.value: {"$ref": f"#/components/messages/published.{one}"} for one in types},
    }


def _webhook(told: list[EventType]) -> JsonObject:
    return {
        "address": "/webhooks/{slug}",
        "title": "Webhook",
        "description": "Where the vendor posts deliveries. A 2xx says that the exact bytes are committed.",
        "servers": [{"$ref": "#/servers/receiver"}],
        "parameters": {"slug": {"description": "The name of the tenant's section in the configuration."}},
        "messages": {one.value: {"$ref": f"#/components/messages/delivered.{one}"} for one in told},
    }


def _operations() -> JsonObject:
    sending = {
        f"publish{topic.capitalize()}": {
            "action": "send",
            "channel": {"$ref": f"#/channels/{topic}"},
            "summary": f"The relay publishes {topic} in Kafka transactions.",
        }
        for topic in TOPICS
    }
    return sending | {
        "receiveDelivery": {
            "action": "receive",
            "channel": {"$ref": "#/channels/webhook"},
            "summary": "The receiver takes a signed delivery.",
            "bindings": {"http": {"method": "POST", "bindingVersion": _HTTP}},
        }
    }


def _record(event_type: EventType, topics: TopicWords) -> JsonObject:
    own = {"properties": {"ce_type": {"type": "string", "const": f"{TYPE_PREFIX}{event_type}"}}}
    key = {"type": "string", "description": topics.keys[topic_of(event_type)]}
    return {
        "name": f"{TYPE_PREFIX}{event_type}",
        "title": event_type.value,
        "contentType": "application/json",
        "headers": {"type": "object", "allOf": [_ref("Headers"), own]},
        "payload": _ref(SHAPES[entity(event_type)].__name__),
        "bindings": {"kafka": {"key": key, "bindingVersion": _KAFKA}},
    }


def _delivery(event_type: EventType) -> JsonObject:
    signed = {
        "type": "string",
        "pattern": "^sha256=[0-9a-fA-F]{64}$",
        "description": "The HMAC-SHA256 of the body's bytes, with the webhook's secret as its key.",
    }
    envelope = {
        "event": {"type": "string", "const": event_type.value},
        "tenantId": {"type": "string", "description": "The vendor's id of the tenant."},
        "timestamp": {"type": "string", "description": "When it happened, as ISO 8601 in UTC."},
        "data": _ref(_TOLD[entity(event_type)].__name__),
    }
    return {
        "name": event_type.value,
        "title": f"{event_type}, as the vendor sends it",
        "contentType": "application/json",
        "headers": row({signature.HEADER: signed}),
        "payload": row(envelope),
    }


def _headers(words: Mapping[str, str]) -> JsonObject:
    """Return the schema of a record's headers; raise LookupError where a list of them is incomplete."""
    wanted = READERS.keys() | _WRITTEN_ONLY
    if lacking := sorted(wanted ^ _HEADERS.keys() | (wanted - words.keys())):
        raise LookupError(f"headers without a form in contracts/asyncapi.py or docs/events-and-kafka.md: {lacking}")
    described = {name: {**schema, "description": words[name]} for name, schema in _HEADERS.items()}
    return {**row(described, optional=OPTIONAL), "title": "Headers", "description": "CloudEvents 1.0, binary mode."}


def _ref(name: str) -> JsonObject:
    return {"$ref": _TEMPLATE.format(name=name)}


def open_schema(schema: Any) -> Any:
    """Return the schema of what the vendor documents, which may have further fields: they are kept under `extra`."""
    match schema:
        case dict():
            kept = ((key, one) for key, one in schema.items() if (key, one) != ("additionalProperties", False))
            return {key: open_schema(one) for key, one in kept}
        case list():
            return [open_schema(one) for one in schema]
        case _:
            return schema
