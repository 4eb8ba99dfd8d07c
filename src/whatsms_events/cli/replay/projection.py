"""`replay projection`: compare the tables with what today's code makes of the log, and swap them."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from whatsms_events.cli.replay.stage import Pace, ReplayStage, alone, begun, ended, opened_stage
from whatsms_events.cli.replay.view import ReplayView, print_findings, print_plan
from whatsms_events.cli.running import stop_on_signals
from whatsms_events.cli.terminal import say_json
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.findings import TableFinding
from whatsms_events.domain.replay import Selection
from whatsms_events.domain.retention import groups
from whatsms_events.errors import ConfigError, IntegrityError
from whatsms_events.service.parts import kafka_target, terms_of
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Selected
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.projection.shadow import has_shadow, open_shadow, remove_shadow, shadow_state
from whatsms_events.storage.projection.swap import SwapOutcome
from whatsms_events.workers.preview import Preview
from whatsms_events.workers.replay import Offsets, ProjectionReplay, belongs, reached
from whatsms_events.workers.sources import REPLAY, offsets_stand


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command was asked for."""

    selection: Selection
    go: bool = False
    swap: bool = False
    rate: float | None = None
    examples: int = 5
    personal: bool = False
    json: bool = False


@dataclass(slots=True)
class _Told:
    """What is printed at the end."""

    findings: tuple[TableFinding, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


async def replay_projection(settings: Settings, wanted: Wanted) -> int:
    """Do it, print what is to be said, and return the exit status."""
    stop = stop_on_signals()
    async with opened_stage(settings) as stage:
        if not wanted.go:
            return await _plan(stage, wanted)
        with ReplayView("replay") as view:
            pace = Pace(stop, wanted.rate, view.say)
            if wanted.selection.whole:
                async with alone(stage):
                    told = await _replayed(stage, wanted, pace, view)
            else:
                told = await _previewed(stage, wanted, pace, view)
    if told is None:
        view.say("stopped: what was read is kept, and the same command goes on from there")
        return 1
    if wanted.json:
        say_json(told.facts | {"findings": told.findings, "differs": any(one.differs for one in told.findings)})
    else:
        print_findings(told.findings, *told.sentences)
    return 0


async def _plan(stage: ReplayStage, wanted: Wanted) -> int:
    """Say what would be read, and what would be done with it."""
    selected, live = Selected(stage.log), await Projection(stage.live).state()
    spans, blanked = await selected.spans(wanted.selection), await selected.blanked(wanted.selection)
    end = await EventLog(stage.log).end()
    if wanted.json:
        say_json({"types": spans, "blanked": blanked, "applied_through": reached(live), "log_end": end, "go": False})
        return 0
    sentences = [f"the tables show events up to position {reached(live):,} of {end:,}"]
    if wanted.selection.whole:
        sentences += [
            "--go reads all of them again into a shadow and says how the tables would differ",
            "--go --swap puts the shadow in the place of the tables too; a running consumer goes on by itself",
        ]
        if blanked.count:
            sentences += ["events without bytes are missing in the shadow, so there is no swap"]
    else:
        sentences += ["--go says what these events would change in the tables today; of a part there is no swap"]
    print_plan(spans, blanked, *sentences)
    return 0


async def _replayed(stage: ReplayStage, wanted: Wanted, pace: Pace, view: ReplayView) -> _Told | None:
    """Fill the shadow, compare, and perhaps swap; return None where it was asked to stop."""
    run, resumed = await begun(stage, "projection", wanted.selection)
    if not resumed:
        await remove_shadow(stage.live, stage.shadow)  # of which nobody knows any more
    async with AsyncExitStack() as stack:
        shadow = await open_shadow(stage.live, stage.shadow)
        stack.push_async_callback(shadow.close)
        replay = _replay(stage, shadow, pace.limit(stage.settings.consumer.batch_limit), swap=wanted.swap)
        if wanted.swap:
            await replay.expect_bytes()

        async def piece() -> int:
            aim = await replay.aim()
            done = await replay.run_once(aim)
            view.show(aim.position, aim.through, done)
            return done

        outcomes: list[SwapOutcome] = []

        async def finish() -> int:
            found = await replay.finish(
                examples=wanted.examples,
                personal=wanted.personal,
                stand=lambda offsets: _stand(stage.settings, offsets),
            )
            outcomes.append(found)
            return 0

        # A consumer that has much to do holds the tables most of the time, so the lock may need some tries.
        if not await pace.repeat(piece) or not await pace.repeat(finish):
            return None
        (outcome,) = outcomes
    if outcome.after is not None:
        await remove_shadow(stage.live, stage.shadow)
        await ended(stage, run, "swapped")
    return _told(outcome)


def _replay(stage: ReplayStage, shadow: Database, limit: int, *, swap: bool) -> ProjectionReplay:
    log, selected, texts = EventLog(stage.log), Selected(stage.log), groups(terms_of(stage.settings), "texts")
    return ProjectionReplay(
        log, selected, stage.live, shadow, stage.lock, batch_limit=limit, swap=swap, texts=texts, now=now
    )


async def _stand(settings: Settings, offsets: Offsets) -> bool:
    target = kafka_target(settings)
    return target is None or not offsets or await offsets_stand(target, settings.kafka.topic_prefix, offsets)


def _told(outcome: SwapOutcome) -> _Told:
    live, replayed = reached(outcome.live), outcome.replayed.applied_through
    differing = sum(one.new + one.lost + one.changed for one in outcome.findings)
    sentences = [f"{differing:,} rows differ" if differing else "no difference"]
    if live != replayed:
        sentences += [f"the tables stood at position {live:,}, the replay at {replayed:,}: not every difference is one"]
    elif outcome.live.applied_through < live:
        sentences += ["events that were on their way from Kafka may show as differences"]
    if outcome.after is None:
        sentences += [
            f"compared at position {replayed:,}; the tables are as they were",
            "--go --swap puts the shadow in their place, `replay discard` removes it",
        ]
    else:
        sentences += [
            f"swapped: the tables show what this release makes of position 1 to {outcome.after.applied_through:,}"
        ]
    facts: dict[str, object] = {
        "live_position": live,
        "replayed_position": replayed,
        "swapped": outcome.after is not None,
        "position": None if outcome.after is None else outcome.after.applied_through,
    }
    return _Told(outcome.findings, facts, sentences)


async def _previewed(stage: ReplayStage, wanted: Wanted, pace: Pace, view: ReplayView) -> _Told | None:
    """Compare a part of the log with the live tables; return None where it was asked to stop."""
    log, live = EventLog(stage.log), await Projection(stage.live).state()
    if not await belongs(live, log):
        raise IntegrityError(
            "the tables show what this log does not hold: it was restored from an older copy, or it is another log, so "
            f"there is nothing to compare a part of it with. {REPLAY}"
        )
    preview = Preview(log, Holdings(stage.live), wanted.selection, through=reached(live))
    limit = pace.limit(stage.settings.consumer.batch_limit)

    async def piece() -> int:
        done = await preview.run_once(limit)
        view.show(preview.position, preview.through, done)
        return done

    if not await pace.repeat(piece):
        return None
    findings = preview.findings(examples=wanted.examples, personal=wanted.personal)
    sentences = [
        _previewed_words(preview, sum(one.new + one.changed for one in findings)),
        "a field that is not read any more shows only in a comparison of the whole log; the tables are as they were",
    ]
    if preview.blanked:
        sentences.insert(1, f"{preview.blanked:,} events have no bytes any more and were left out")
    if preview.refused:
        refused = ", ".join(f"{reason} {count:,}" for reason, count in sorted(preview.refused.items()))
        sentences.insert(1, f"this release cannot read some of them: {refused}")
    facts: dict[str, object] = {
        "events": preview.events,
        "blanked": preview.blanked,
        "refused": dict(preview.refused),
        "position": preview.through,
        "swapped": False,
    }
    return _Told(findings, facts, sentences)


def _previewed_words(preview: Preview, differing: int) -> str:
    if not preview.events:
        return f"no event up to position {preview.through:,} was read again: this says nothing of what would change"
    would = f"they would change {differing:,} rows" if differing else "they change nothing"
    return f"{preview.events:,} events up to position {preview.through:,} were read again: {would}"


async def shadow_standing(stage: ReplayStage) -> str:
    """Say how far the shadow is."""
    if not await has_shadow(stage.live, stage.shadow):
        return "nothing was read yet"
    try:
        state = await shadow_state(stage.shadow)
    except ConfigError:
        return "the shadow is being made, or another release made it"
    if state is None:
        return "nothing was read yet"
    end = await EventLog(stage.log).end()
    return f"{state.applied:,} events read, up to position {state.applied_through:,} of {end:,}"


async def remove(stage: ReplayStage) -> bool:
    """Remove the shadow; return whether there was one."""
    there = await has_shadow(stage.live, stage.shadow)
    await remove_shadow(stage.live, stage.shadow)
    return there
