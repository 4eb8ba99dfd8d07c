"""`trace`: all that is known of one event, delivery, message, ticket, contact or campaign."""

from collections.abc import Iterator
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say, say_json
from whatsms_events.config.settings import Settings
from whatsms_events.domain.bodies import is_storable
from whatsms_events.errors import ConfigError, NotFoundError
from whatsms_events.service.parts import kafka_target
from whatsms_events.service.record_finder import RecordFinder
from whatsms_events.service.stores import opened_stores
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.trace import REACH, TracedKind, Traces
from whatsms_events.web.trace import passport
from whatsms_events.web.trace_view import shown_matches
from whatsms_events.web.trace_words import (
    TraceView,
    at,
    kafka_words,
    outcome_words,
    place_words,
    rest_words,
    table_words,
)

QUERY_S: Final = 300.0
"""A command may look through the whole log, which a request must not."""

Reach = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]


def trace(
    name: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    tenant: str | None = None,
    kind: TracedKind | None = None,
    reach: Reach = REACH,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Say what became of an event: how it came in, where it is in log and Kafka, and what it changed in the tables.

    A message, ticket, contact or campaign is shown with who wrote each of its fields, and its last events. Nothing that
    anybody wrote is printed. Status 1: nothing has this name, or several things have it; then each is named.

    Parameters
    ----------
    name
        The id of an event, of a message, ticket, contact or campaign, or the SHA-256 of a delivery's bytes.
    tenant
        Only of this tenant, by its slug.
    kind
        Only what is of this kind.
    reach
        How many positions to look through, from the end of the log backwards, for a hash or the events about a thing; 0
        for the whole log.
    json
        Print JSON, as the read API shows it.
    """
    settings = options.load()
    if tenant is not None and tenant not in settings.tenants:
        raise ConfigError(f"--tenant: unknown {tenant}; there are {', '.join(settings.tenants) or 'none'}")
    if not is_storable(name):
        raise NotFoundError("nothing has this name")
    found = run(_found(settings, name, tenant, kind, reach or None))
    if json:
        say_json(found)
    else:
        say(*_lines(found))
    return 0 if found["trace"] is not None else 1


async def _found(
    settings: Settings, name: str, tenant: str | None, kind: TracedKind | None, reach: int | None
) -> TraceView:
    slugs = {one.tenant_id: slug for slug, one in settings.tenants.items()}
    wanted = [one for one, slug in slugs.items() if tenant in (None, slug)]
    async with opened_stores(settings) as stores:
        traces = Traces(stores.log, stores.projection)
        finder = RecordFinder(stores.log, kafka_target(settings), settings.kafka.topic_prefix)
        queries = Queries(stores.log, stores.projection, timeout_s=QUERY_S)
        matches = [one for one in await traces.matches(name, wanted, reach=reach) if kind in (None, one.kind)]
        if not matches:
            raise NotFoundError(f"nothing has this name: {name}")
        shown = await passport(traces, matches, finder.find, slugs, turn=queries, reach=reach)
        return {"matches": shown_matches(matches, slugs), "trace": shown}


def _lines(found: TraceView) -> Iterator[str]:
    shown = found["trace"]
    if shown is None:
        yield "this may be several things: give --kind or --tenant"
        for one in found["matches"]:
            yield f"  {one['kind']} {one['id']} of {one['tenant'] or one['tenant_id']}"
    elif shown["kind"] == "event":
        yield from _event(shown)
    elif shown["kind"] == "parked":
        delivery = shown["delivery"]
        state = "parked" if delivery["discarded_at"] is None else "discarded"
        yield f"{state} delivery {shown['id']} of {shown['tenant'] or shown['tenant_id']}: {shown['reason']}"
        yield f"  received   {at(delivery['first_received_at'])}, came {delivery['count']}x"
        yield f"  bytes      sha256 {delivery['sha256']}, signed with {delivery['signed_by'] or 'an unknown secret'}"
    else:
        yield f"{shown['kind']} {shown['id']} of {shown['tenant'] or shown['tenant_id']}"
        yield from _thing(shown)
        for field in shown["fields"]:
            yield f"  {field['field']:<18} {place_words(field)}"
        behind = f" behind position {shown['looked_behind']}" if shown["looked_behind"] else ""
        yield f"  its last events{behind}:"
        for event in shown["events"]:
            yield f"    {event['position']}  {at(event['received_at'])}  {event['type']}  {event['id']}"


def _event(shown: TraceView) -> Iterator[str]:
    delivery, tables = shown["delivery"], shown["tables"]
    yield f"event {shown['id']} of {shown['tenant'] or shown['tenant_id']}: {shown['type']} {shown['subject'] or ''}"
    yield f"  log        position {shown['log']['position']} of log {shown['log']['log_id']}"
    size = "blanked" if delivery["blanked"] else f"{delivery['size']} bytes"
    yield f"  bytes      {size}, sha256 {delivery['sha256']}"
    signed = f", signed with {delivery['signed_by']}" if delivery["signed_by"] else ""
    yield f"  received   {at(delivery['first_received_at'])} from {shown['origin']}{signed}"
    if delivery["redelivered"]:
        yield f"  again      {delivery['redelivered']}x, at last {at(delivery['last_redelivered_at'])}"
    yield f"  kafka      {kafka_words(shown['record'])}"
    yield f"  tables     {table_words(tables)}"
    for field in tables["fields"]:
        yield f"    {field['table']} {field['id']} {field['field']}: {outcome_words(field)}"
    if shown["thing"] is not None:
        yield from _thing(shown["thing"])


def _thing(thing: TraceView) -> Iterator[str]:
    if not thing["held"]:
        yield "  not in the tables"
        return
    if thing["doubtful"]:
        yield f"  doubtful   {', '.join(thing['doubtful'])}"
    if (ack := thing["ack"]) is not None:
        failed = f", failed {at(ack['failed_at'])}" if ack["failed_at"] else ""
        yield f"  ack        {ack['name'] or 'none'}{failed}"
    yield f"  REST       {', '.join(rest_words(thing['rest']))}"
