"""`replay projection`, `kafka`, `status` and `discard`: the log once more, with this release."""

import re
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, Positive, SettingsOptions
from whatsms_events.cli.replay.options import EVERYTHING, SelectionOptions
from whatsms_events.cli.replay.projection import Wanted, remove, replay_projection, shadow_standing
from whatsms_events.cli.replay.stage import ReplayStage, alone, ended, opened_stage
from whatsms_events.cli.replay.topics import WantedTopics, replay_kafka
from whatsms_events.cli.replay.view import print_runs
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say_json
from whatsms_events.errors import ConfigError, NotFoundError
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.replays import ReplayRun, Replays

Examples = Annotated[int, Parameter(validator=Number(gte=0, lte=1000))]

_PREFIX: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


def projection_(
    *,
    go: bool = False,
    swap: bool = False,
    rate: Positive | None = None,
    examples: Examples = 5,
    personal: bool = False,
    json: bool = False,
    events: SelectionOptions = EVERYTHING,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Compare the tables with what this release makes of the log, and swap them.

    Without --go it only counts. Ctrl-C stops it, and the same command goes on where it stopped.

    Parameters
    ----------
    go
        Do it: read the log again into a shadow, compare, and say how the tables differ.
    swap
        With --go: put the shadow in the place of the tables, in one transaction; a running consumer goes on.
    rate
        Read no more than so many events a second.
    examples
        How many rows of each kind of difference are named, for each table.
    personal
        Show texts, names and numbers among the differences too.
    json
        Print one JSON document, alone on standard output.
    """
    settings = options.load()
    selection = events.selection(settings)
    if swap and not selection.whole:
        raise ConfigError("--swap: the tables are made of the whole log, so it goes with no choice of events")
    if swap and not go:
        raise ConfigError("--swap: needs --go")
    wanted = Wanted(selection, go, swap, rate, examples, personal, json)
    return run(replay_projection(settings, wanted))


def kafka_(
    *,
    prefix: str,
    go: bool = False,
    rate: Positive | None = None,
    json: bool = False,
    events: SelectionOptions = EVERYTHING,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Publish events of the log once more, into shadow topics under a prefix of their own.

    Without --go it only counts. Ctrl-C stops it, and the same command goes on where it stopped.

    Parameters
    ----------
    prefix
        Prefix of the shadow topics, never that of the live ones.
    go
        Do it: make the topics where they are missing, and publish.
    rate
        Publish no more than so many events a second.
    json
        Print one JSON document, alone on standard output.
    """
    settings = options.load()
    if _PREFIX.fullmatch(prefix) is None:
        raise ConfigError(f"--prefix {prefix}: should have letters, digits, dots, underscores and hyphens alone")
    return run(replay_kafka(settings, WantedTopics(prefix, events.selection(settings), go, rate, json)))


def status_(*, json: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Say which replays there were, the last one first, and how far one is that has not finished.

    Parameters
    ----------
    json
        Print one JSON document.
    """
    settings = options.load()

    async def main() -> None:
        async with opened_stage(settings) as stage:
            runs = await Replays(stage.log).latest()
            standing = {str(one.id): await _standing(stage, one) for one in runs if one.finished_at is None}
        if json:
            say_json({"replays": runs, "standing": standing})
        else:
            print_runs(runs, standing)

    run(main())
    return 0


async def _standing(stage: ReplayStage, one: ReplayRun) -> str:
    if one.target == "projection":
        return await shadow_standing(stage)
    published = await RelayRows(stage.log).load(one.prefix)
    through = 0 if published is None else published.published_through
    return f"published up to position {through:,} of {one.selection.last or 0:,} at least"


def discard_(*, prefix: str | None = None, options: SettingsOptions = DEFAULTS) -> int:
    """Give up the replay that is not finished, and remove its shadow; shadow topics are left to you.

    Parameters
    ----------
    prefix
        Give up the replay to the topics under this prefix instead of the one to the projection.
    """
    settings = options.load()

    async def main() -> str:
        async with opened_stage(settings) as stage, alone(stage):
            found = await Replays(stage.log).unfinished("projection" if prefix is None else "kafka", prefix or "")
            if prefix is None:
                there = await remove(stage)
                said = "the shadow is removed"
            else:
                there = False
                said = f"the replay is given up; delete its topics ({prefix}.*) yourself"
            if found is None and not there:
                raise NotFoundError("there is no such replay that is not finished")
            if found is not None:
                if prefix is not None:
                    await RelayRows(stage.log).forget(prefix)
                await ended(stage, found, "discarded")
            return said

    print(run(main()))
    return 0
