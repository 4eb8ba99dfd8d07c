"""`suppressions export` and `import`: the marks of who was forgotten, for a log that is restored from a backup."""

from contextlib import AsyncExitStack
from pathlib import Path

from whatsms_events.cli.forget import scrubbed
from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import ConfigError
from whatsms_events.service.parts import privacy_key
from whatsms_events.service.stores import opened_log, opened_stores
from whatsms_events.service.suppressions import missing, read_file, write_file
from whatsms_events.storage.log.erasure import Counts
from whatsms_events.storage.log.suppression import SuppressionTable, key_problem
from whatsms_events.workers.imported_marks import ImportedMarks


def export_(file: Path, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Write the marks of everybody who was forgotten into a file: keyed hashes and moments, and nothing else.

    Parameters
    ----------
    file
        Where to; a file that is there is replaced, whole or not at all.
    """
    settings = options.load()

    async def exported() -> int:
        async with opened_log(settings) as log:
            marks = await SuppressionTable(log).all()
        write_file(file, marks)
        return sum(bool(one.mark) for one in marks)

    print(f"{run(exported())} marks")
    return 0


def import_(file: Path, /, *, options: SettingsOptions = DEFAULTS) -> int:
    """Take the marks of a file into a log that was restored, and blank what it holds of the people forgotten since.

    Do this before the service starts. It may be stopped at any point and run again.

    Parameters
    ----------
    file
        What `suppressions export` wrote, or the file of `privacy.suppressions_file`.
    """
    settings = options.load()
    added, counts = run(_imported(settings, file))
    print(f"{added} marks were not known here")
    for table, count in sorted(counts.items()):
        print(f"{table:<18} {count} rows blanked")
    return 0


async def _imported(settings: Settings, file: Path) -> tuple[int, Counts]:
    key = privacy_key(settings)
    if key is None:
        raise ConfigError("privacy.key: is needed to know again who was forgotten")
    marker = Marker(key)
    read = read_file(file)
    problem = key_problem(marker, {one.key_check for one in read})
    if problem is not None:
        raise ConfigError(f"{file}: {problem}")
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(opened_stores(settings, migrate=True))
        imported = ImportedMarks(stores.log, stores.projection, marker, now=now)
        await stack.enter_async_context(imported.alone)
        marks = await missing(read, stores.log)
        counts = await imported.apply(marks)
        await scrubbed(stores.log)
        await scrubbed(stores.projection)
        # Last: while they are missing, a process that starts refuses, and this begins anew.
        await SuppressionTable(stores.log).add(marks)
        return len(marks), counts
