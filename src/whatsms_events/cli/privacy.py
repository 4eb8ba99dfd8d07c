"""`privacy report`: what is held of people, of how many, how old; `privacy keys`: who could forget them."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from whatsms_events.cli.options import DEFAULTS, SettingsOptions, tenant_named
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import printable, say_json
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.marks import Marker
from whatsms_events.service.parts import privacy_cutoffs, privacy_key, tenant_ids
from whatsms_events.service.stores import opened_log, opened_stores
from whatsms_events.storage.log.key_holders import KeyHolder, KeyHolders
from whatsms_events.storage.privacy import PrivacyCounts
from whatsms_events.storage.reads import Queries
from whatsms_events.web.privacy import QUESTION_S, report

_ABOUT: Final = {"exact": "", "at_least": "at least ", "about": "about "}

UNREAD_TOLD: Final = 10

FORGOTTEN_TOLD: Final = 50
"""So many people who were forgotten are in the table, the last one first; those of whom something is left all are."""

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
        say_json(found)
        return 0
    console = Console()
    for one in msgspec.to_builtins(found)["tenants"]:
        console.print(_table(one))
        for line in _forgotten(one, found["made_at"].isoformat()):
            console.print(printable(line), markup=False)
    return 0


def keys(*, json: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Say of each process that appends which `privacy.key` it has, by a fingerprint, and whether it fits.

    It asks the log's database, where each process shows that every twenty seconds. The key itself is never shown. It
    ends with status 1 where one has another key than these settings, or none.

    Parameters
    ----------
    json
        Print one object: the fingerprint here, and the processes.
    """
    settings = options.load()
    key = privacy_key(settings)
    ours = None if key is None else Marker(key).fingerprint
    holders = run(_holders(settings))
    if json:
        told = [{**msgspec.to_builtins(one), "fits": one.fingerprint == ours} for one in holders]
        say_json({"fingerprint": ours, "processes": told})
    else:
        print(f"here: {ours or 'no key'}")
        for one in holders:
            fits = "fits" if one.fingerprint == ours else "DIFFERS"
            print(f"{one.process}  {one.fingerprint or 'no key'}  {fits}  seen {one.seen_at:%Y-%m-%dT%H:%M:%SZ}")
    return int(any(one.fingerprint != ours for one in holders))


async def _holders(settings: Settings) -> Sequence[KeyHolder]:
    async with opened_log(settings) as log:
        return await KeyHolders(log).live(now())


async def _report(settings: Settings, tenants: Any) -> Any:
    async with opened_stores(settings) as stores:
        queries = Queries(stores.log, stores.projection, timeout_s=QUESTION_S)
        counts = PrivacyCounts(stores.log, stores.projection)
        return await report(counts, tenants, privacy_cutoffs(settings), now(), turn=queries)


def _forgotten(one: Any, at: str) -> Iterator[str]:
    """Say how many were forgotten, who and when, of whom that is not finished, and until when the topics have them."""
    yield f"forgotten: {one['forgotten_people']:,}"
    if unread := one["unread"]:
        ids = ", ".join(unread[:UNREAD_TOLD])
        yield f"parked in a form that is not read here, so look whom they name: {len(unread)}: {ids}"
    told = 0
    for number, person in enumerate(one["forgotten"]):
        left = _left(person, at)
        if left or number < FORGOTTEN_TOLD:
            told += 1
            yield f"  contact {person['contact_id']}: forgotten {person['forgotten_at'][:16]}Z{left}"
    if (more := one["forgotten_people"] - told) > 0:
        yield f"  and {more:,} earlier: --json and the read API name the last 1,000"


def _left(person: Any, at: str) -> str:
    """Say what is left of somebody who was forgotten; nothing where all is done."""
    if person["finished_at"] is None:
        return ", not finished, run `forget` again"
    until = person["kafka_until"]
    return f", topics may have them until {until[:16]}Z" if until is not None and until > at else ""


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
