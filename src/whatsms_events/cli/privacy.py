"""`privacy report`: what is held of people, of how many, how old, and what of it should go."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from whatsms_events.cli.options import DEFAULTS, SettingsOptions, tenant_named
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.service.parts import opened_stores, privacy_cutoffs, tenant_ids
from whatsms_events.storage.privacy import PrivacyCounts
from whatsms_events.storage.reads import Queries
from whatsms_events.web.privacy import QUESTION_S, report

_ABOUT: Final = {"exact": "", "at_least": "at least ", "about": "about "}

PLACES: Final = {
    "log_bytes": "event log: bytes of deliveries",
    "log_data": "event log: data of events",
    "contacts": "contacts",
    "tickets": "tickets",
    "messages": "messages with a text or media",
    "revisions": "revisions of messages",
    "parked_deliveries": "parked deliveries",
    "parked_events": "parked events",
    "backfill_items": "backfill: still to be compared",
    "backfill_drift": "backfill: what differed",
}


def report_(*, tenant: str | None = None, json: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Say per tenant what is held of people: in which place, how much, how old, and how much of it is due to go.

    It asks the databases alone, for a bounded time: of a large log it reads a sample, and says "about"; a place with
    more than a million rows has "at least" so many.

    Parameters
    ----------
    tenant
        The tenant's slug; without it, every tenant.
    json
        Print JSON, as the read API shows it.
    """
    settings = options.load()
    known = tenant_ids(settings)
    wanted = known if tenant is None else {(slug := tenant_named(settings, tenant)): known[slug]}
    found = run(_report(settings, wanted))
    if json:
        print(msgspec.json.encode(found).decode())
        return 0
    console = Console()
    for one in msgspec.to_builtins(found)["tenants"]:
        console.print(_table(one))
        for line in _forgotten(one, found["made_at"].isoformat()):
            console.print(line)
    return 0


async def _report(settings: Settings, tenants: Any) -> Any:
    async with opened_stores(settings) as stores:
        queries = Queries(stores.log, stores.projection, timeout_s=QUESTION_S)
        counts = PrivacyCounts(stores.log, stores.projection)
        return await report(counts, tenants, privacy_cutoffs(settings), now(), turn=queries)


def _forgotten(one: Any, at: str) -> Iterator[str]:
    """Say how many were forgotten, of whom that is not finished, and whom the topics still have."""
    yield f"forgotten: {one['forgotten_people']:,}"
    for person in one["forgotten"]:
        if person["finished_at"] is None:
            yield f"  contact {person['contact_id']}: not finished, run `forget` again"
        elif (until := person["kafka_until"]) is not None and until > at:
            yield f"  contact {person['contact_id']}: topics may have them until {until[:16]}Z"


def _table(one: Any) -> Table:
    people = f"{_ABOUT[one['people_precision']]}{one['people']:,}"
    table = Table(title=f"{one['tenant']}: of {people} people", title_justify="left")
    for name in ("place", "held", "oldest", "due to go"):
        table.add_column(name, justify="right" if name in ("held", "due to go") else "left")
    for held in one["held"]:
        rows = f"{_ABOUT[held['precision']]}{held['rows']:,}"
        oldest = "" if held["oldest_at"] is None else held["oldest_at"][:10]
        due = "kept for ever" if held["due"] is None else f"{held['due']:,}"
        table.add_row(PLACES[held["place"]], rows, oldest, due)
    return table
