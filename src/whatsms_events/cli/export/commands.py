"""`export`: everything that is held of one person, as a folder to hand out."""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from whatsms_events.cli.export.folder import Folder
from whatsms_events.cli.options import DEFAULTS, SettingsOptions, tenant_named
from whatsms_events.cli.progress import Steps
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.bodies import is_storable
from whatsms_events.errors import NotFoundError
from whatsms_events.service.stores import opened_stores
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.person import People
from whatsms_events.web.export import heading, sections

NOTHING: Final = "nothing is held of a person with this id or number"


def export(
    *,
    contact: Annotated[str, Parameter(allow_leading_hyphen=True)],
    out: Path,
    tenant: str | None = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Write everything that is held of one person into a new folder: JSON, a page to read, a list of media URLs.

    It looks through the whole log, and may run beside the service. Read the page before you hand it out: what came in
    and could not be understood may tell of others too. Status 1: nothing is held.

    Parameters
    ----------
    contact
        The contact's id, or the person's number. Every contact with the same number is the same person.
    out
        The folder to make. It is not written into where there is something in it, and is there whole or not at all.
    tenant
        The tenant's slug; it may be left out where there is one tenant.
    """
    settings = options.load()
    slug = tenant_named(settings, tenant)
    if not is_storable(contact):
        raise NotFoundError(NOTHING)
    folder = Folder(out)
    try:
        run(_written(settings, slug, contact, folder))
        if not any(folder.counts.values()):
            raise NotFoundError(NOTHING)
        urls = folder.finish()
    except BaseException:
        folder.remove()
        raise
    for name, count in folder.counts.items():
        print(f"{name:<18} {count}")
    print(f"{'media_urls':<18} {urls}")
    print(out)
    return 0


async def _written(settings: Settings, slug: str, contact: str, folder: Folder) -> None:
    steps = Steps("export")
    async with opened_stores(settings) as stores:
        people = People(stores.log, stores.projection)
        person = await people.person(settings.tenants[slug].tenant_id, contact)
        if person.nobody:
            raise NotFoundError(NOTHING)
        end = await EventLog(stores.log).end()
        folder.begin(heading(person, slug, now(), end))
        async for name, rows in sections(people, person, end):
            folder.add(name, rows)
            if name == "events" and rows:
                steps.at(int(str(rows[-1]["position"])), end)
