"""`replay kafka`: publish events of the log once more, into shadow topics under a prefix of their own."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from whatsms_events.cli.replay.stage import Pace, ReplayStage, alone, begun, ended, opened_stage
from whatsms_events.cli.replay.view import ReplayView, print_plan
from whatsms_events.cli.running import stop_on_signals
from whatsms_events.cli.terminal import say_json
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.records import TOPICS, KafkaRecord, replayed, to_record
from whatsms_events.domain.replay import Selection
from whatsms_events.errors import BrokerUnavailableError, ConfigError, FencedError, IntegrityError
from whatsms_events.kafka.connection import KafkaReader, KafkaTarget
from whatsms_events.kafka.topics import count_partitions, create_topics
from whatsms_events.service.parts import kafka_target
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.replays import ReplayRun, Replays
from whatsms_events.storage.log.selected import Blanked, Selected, TypeSpan
from whatsms_events.workers.relay import Relay
from whatsms_events.workers.rereading import RereadLog

OPENINGS: Final = 3
"""So often the relay is opened at the end, before the command says that not all is known to be visible."""


@dataclass(frozen=True, slots=True)
class WantedTopics:
    """What the command was asked for."""

    prefix: str
    selection: Selection
    go: bool = False
    rate: float | None = None
    json: bool = False


async def replay_kafka(settings: Settings, wanted: WantedTopics) -> int:
    """Do it, print what is to be said, and return the exit status."""
    stop = stop_on_signals()
    target = kafka_target(settings)
    if target is None:
        raise ConfigError("kafka.bootstrap_servers: is not set")
    if wanted.prefix == settings.kafka.topic_prefix:
        raise ConfigError(f"--prefix {wanted.prefix}: is kafka.topic_prefix, and a replay never writes to live topics")
    async with opened_stage(settings) as stage:
        await _expect_shadow(stage, wanted.prefix)
        if not wanted.go:
            return await _plan(stage, wanted)
        with ReplayView(f"replay to {wanted.prefix}") as view:
            async with alone(stage):
                done = await _published(stage, target, wanted, Pace(stop, wanted.rate, view.say), view)
    if not done:
        view.say("stopped: what was published stays, and the same command goes on behind it")
        return 1
    return 0


async def _expect_shadow(stage: ReplayStage, prefix: str) -> None:
    """Raise IntegrityError where a relay publishes to this prefix, or did once: its topics are live ones."""
    known = await RelayRows(stage.log).load(prefix)
    if known is not None and await Replays(stage.log).unfinished("kafka", prefix) is None:
        raise IntegrityError(
            f"a relay of this log publishes to {prefix}, or did so: a replay needs a prefix of its own"
        )


async def _plan(stage: ReplayStage, wanted: WantedTopics) -> int:
    """Say what would be published."""
    selected = Selected(stage.log)
    spans, blanked = await selected.spans(wanted.selection), await selected.blanked(wanted.selection)
    if wanted.json:
        say_json({"types": spans, "blanked": blanked, "prefix": wanted.prefix, "go": False})
        return 0
    topics = ", ".join(f"{wanted.prefix}.{suffix}" for suffix in TOPICS)
    sentences = [
        f"--go reads them again with this release and publishes them to {topics}",
        "live topics stay as they are",
    ]
    if blanked.count:
        sentences.append("events without bytes are left out")
    print_plan(spans, blanked, *sentences)
    return 0


async def _published(
    stage: ReplayStage, target: KafkaTarget, wanted: WantedTopics, pace: Pace, view: ReplayView
) -> bool:
    """Publish, and say what was published; return False where it was asked to stop."""
    # The topics are looked at before the replay is recorded: where the look refuses them, nothing is left to resume.
    resumed = await Replays(stage.log).unfinished("kafka", wanted.prefix) is not None
    await _make_topics(stage.settings, target, wanted.prefix, resumed=resumed)
    run, _ = await begun(stage, "kafka", await _bounded(stage, wanted), wanted.prefix)
    log = RereadLog(EventLog(stage.log), run.selection)
    relay = _relay(stage, target, log, run, pace)
    for _ in range(OPENINGS):
        try:
            if not await pace.repeat(lambda: _piece(stage, relay, log, run, view)):
                return False
        finally:
            await relay.close()
        if await _is_visible(stage, log, run):
            break
        view.say("not all of it is known to be visible: looks again")
    else:
        raise BrokerUnavailableError(
            f"Kafka does not show all events up to position {log.position:,} under {run.prefix}: the same command goes "
            "on, and looks again"
        )
    selected = Selected(stage.log)
    spans, blanked = await selected.spans(run.selection), await selected.blanked(run.selection)
    await RelayRows(stage.log).forget(wanted.prefix)
    await ended(stage, run, "published")
    _tell(wanted, run, spans, blanked, log.refused)
    return True


async def _bounded(stage: ReplayStage, wanted: WantedTopics) -> Selection:
    """Return the selection with an end, which is never behind where the log ended when the replay was begun."""
    run, asked = await Replays(stage.log).unfinished("kafka", wanted.prefix), wanted.selection.last
    if run is not None:
        begun_with = run.selection
        same = asked in (None, begun_with.asked)
        return replace(wanted.selection, last=begun_with.last, asked=begun_with.asked) if same else wanted.selection
    end = await EventLog(stage.log).end()
    if asked is None or asked <= end:
        return replace(wanted.selection, last=end if asked is None else asked)
    return replace(wanted.selection, last=end, asked=asked)


async def _is_visible(stage: ReplayStage, log: RereadLog, run: ReplayRun) -> bool:
    """Tell whether all that was read is known to be visible.

    A commit that was answered may still hang. A relay that closes saves only what it sees, and the next opening
    publishes again what it does not see.
    """
    if not await stage.lock.take():  # the relay gave it up
        raise FencedError("another process took the replay over")
    known = await RelayRows(stage.log).load(run.prefix)
    return log.position < run.selection.first or (known is not None and known.published_through >= log.position)


async def _piece(stage: ReplayStage, relay: Relay, log: RereadLog, run: ReplayRun, view: ReplayView) -> int:
    done = await relay.run_once()
    if not done and not await stage.lock.take():
        raise FencedError("another process took the replay over")
    view.show(log.position, run.selection.last or 0, done)
    return done


async def _make_topics(settings: Settings, target: KafkaTarget, prefix: str, *, resumed: bool) -> None:
    """Make the shadow topics as the live ones are made; raise IntegrityError where a new replay finds records there."""
    kafka = settings.kafka
    await create_topics(
        target,
        prefix,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        retention_ms=kafka.retention_ms,
    )
    if resumed:
        return
    counts = await count_partitions(target, prefix)
    reader = await KafkaReader.open(target, committed=False)
    try:
        ends = await reader.ends([(topic, number) for topic, count in counts.items() for number in range(count)])
    finally:
        await reader.close()
    if any(ends.values()):
        raise IntegrityError(
            f"the topics under {prefix} were written to before: delete them, or give the replay another --prefix"
        )


def _relay(stage: ReplayStage, target: KafkaTarget, log: RereadLog, run: ReplayRun, pace: Pace) -> Relay:
    """Return a relay of its own for the shadow topics, so that each event is there exactly once too."""
    settings = stage.settings

    def record(entry: LogEntry, log_id: UUID) -> KafkaRecord:
        return replayed(to_record(entry, log_id), run.id, run.started_at, run.selection.first)

    return Relay(
        log,
        RelayRows(stage.log),
        target,
        run.prefix,
        stage.lock,
        body_limit_bytes=settings.receiver.body_limit_bytes,
        batch_limit=pace.limit(settings.relay.batch_limit),
        check_interval_s=settings.relay.check_interval_s,
        transaction_timeout_s=settings.relay.transaction_timeout_s,
        now=now,
        monotonic=time.monotonic,
        record=record,
    )


def _tell(wanted: WantedTopics, run: ReplayRun, spans: list[TypeSpan], blanked: Blanked, refused: Counter[str]) -> None:
    if wanted.json:
        facts = {"replay": run.id, "prefix": run.prefix, "types": spans, "blanked": blanked, "refused": refused}
        say_json(facts | {"go": True})
        return
    sentences = [f"published to {run.prefix} up to position {run.selection.last:,}, as replay {run.id}"]
    if refused:
        words = ", ".join(f"{reason} {count:,}" for reason, count in sorted(refused.items()))
        sentences.append(f"published as the log has them, since this release cannot read them: {words}")
    print_plan(spans, blanked, *sentences)
