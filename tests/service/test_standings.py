"""What the databases show against what each role of a process says: who stands still, and who is told."""

import math
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert
from structlog.testing import capture_logs

from servers.metric import sample
from whatsms_events import metrics
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings, TenantSettings
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.standing import STILL_S, RoleState
from whatsms_events.service.parts import make_observer
from whatsms_events.service.standings import Standings, States, Watch
from whatsms_events.service.stores import Stores, log_target, projection_target
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.tables import message
from whatsms_events.workers.observer import DatabaseView

NO_LIMITS: Mapping[str, float] = {}
NAMES = ("relay", "consumer", "backfill.acme")
WELL: States = {"relay": ("active", ""), "consumer": ("standby", ""), "backfill.acme": ("standby", "")}


def watched(
    seen: DatabaseView, seconds: float, *, kafka: bool = True, limits: Mapping[str, float] = NO_LIMITS
) -> Standings:
    """Return the roles after so many seconds in which the databases showed the same."""
    standings = Standings(NAMES, lambda: None, kafka=kafka, limits=limits)
    for second in range(int(seconds) + 1):
        standings.look(second, WELL, seen)
    return standings


def faulty(standings: Standings) -> set[str]:
    """Return the roles that do not do their work."""
    return {name for name, problem in standings.problems({}).items() if problem is not None}


def test_a_relay_that_stands_still_is_no_fault_of_the_consumer_behind_it() -> None:
    """Only the relay is told where nothing becomes visible: the consumer has all that there is for it."""
    standings = watched(DatabaseView(end=9, published=5, applied=5), STILL_S)
    assert faulty(standings) == {"relay"}
    (gauge,) = metrics.ROLE_STALLED.labels("relay").collect()
    assert gauge.samples[0].value == STILL_S


def test_a_consumer_that_stands_still_is_told_by_what_it_could_have() -> None:
    """With Kafka it is held against what is visible there, without against the log's end."""
    assert faulty(watched(DatabaseView(end=9, published=9, applied=5), STILL_S)) == {"consumer"}
    assert faulty(watched(DatabaseView(end=9, applied=5), STILL_S, kafka=False)) == {"consumer"}


def test_a_role_that_moves_rarely_is_given_the_time() -> None:
    """The relay's place moves when it checks what is visible: a long `relay.check_interval_s` is no fault."""
    seen = DatabaseView(end=9, published=5, applied=5)
    assert faulty(watched(seen, STILL_S, limits={"relay": 900})) == set()
    assert faulty(watched(seen, 900, limits={"relay": 900})) == {"relay"}


def test_a_backfill_that_nobody_moves_is_told() -> None:
    """A run that is not finished and was not saved for long: whoever holds it is frozen. No run is no fault."""
    limits = {"backfill": 900.0}
    assert faulty(watched(DatabaseView(runs={"acme": 1}), 899, limits=limits)) == set()
    assert faulty(watched(DatabaseView(runs={"acme": 1}), 900, limits=limits)) == {"backfill.acme"}
    assert faulty(watched(DatabaseView(), 2000, limits=limits)) == set()


def test_who_has_halted_is_told_at_once() -> None:
    """Nobody need have looked since."""
    standings = watched(DatabaseView(), 0)
    states: States = {**WELL, "backfill.acme": ("halted", "401")}
    assert standings.problems(states)["backfill.acme"] == "halted: 401"


def test_a_receiver_is_as_the_committer_is_now() -> None:
    """The door's own problem counts at once, and its end too."""
    said: list[str | None] = [None]
    standings = Standings((), lambda: said[0], kafka=False, limits={})
    assert standings.problems({}) == {"receiver": None}
    said[0] = "removed"
    assert standings.problems({}) == {"receiver": "removed"}
    standings.look(0, {}, DatabaseView())
    said[0] = None
    assert standings.problems({}) == {"receiver": None}


@pytest.mark.parametrize("state", ["standby", "halted"])
def test_each_fault_is_one_line(state: str) -> None:
    """What lasts is said once, and its end too; a halted role was announced by its loop already."""
    standings = Standings(("relay",), None, kafka=True, limits={})
    with capture_logs() as lines:
        for second in range(120):
            standings.look(
                second, {"relay": ("halted" if state == "halted" else "standby", "broker away")}, DatabaseView()
            )
        for second in range(120, 240):
            standings.look(second, WELL, DatabaseView())
    told = [(line["event"], line["log_level"]) for line in lines]
    assert told == ([] if state == "halted" else [("role.stalled", "error"), ("role.recovered", "info")])


async def test_a_role_is_not_taken_for_the_backfill_of_a_tenant_with_its_name(tmp_path: Path) -> None:
    """A tenant may be called "relay": its backfill counts as stopped where "backfill.relay" halts, not where the relay
    does.
    """
    told = {"tenant_id": "t1", "webhook_secrets": {"current": "s" * 32}, "api_key": "k" * 20}
    settings = Settings(data_dir=tmp_path, tenants={"relay": TenantSettings.model_validate(told)})
    states: dict[str, tuple[RoleState, str]] = {"relay": ("halted", "why"), "backfill.relay": ("active", "")}
    async with AsyncExitStack() as stack:
        log = await open_log(log_target(settings), migrate=True)
        stack.push_async_callback(log.close)
        projection = await open_projection(projection_target(settings), migrate=True)
        stack.push_async_callback(projection.close)
        observer = make_observer(settings, Stores(log, projection))
        watch = Watch(observer, Standings([], None, kafka=False, limits={}), states)
        await watch.look()
        assert sample("whatsms_events_backfill_state", {"tenant": "relay"}) == 0
        states["backfill.relay"] = ("halted", "the key is refused")
        await Watch(observer, Standings([], None, kafka=False, limits={}), states).look()
        assert sample("whatsms_events_backfill_state", {"tenant": "relay"}) == 2


async def test_the_observer_counts_stuck_messages_and_free_bytes(tmp_path: Path) -> None:
    """A tenant without a key has the gauge of stuck messages too; free bytes are those of the disk of the log."""
    told = {"tenant_id": "t1", "webhook_secrets": {"current": "s" * 32}}
    settings = Settings(data_dir=tmp_path, tenants={"shop": TenantSettings.model_validate(told)})
    yesterday = to_micros(now() - timedelta(days=2))
    row = {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}", "from_me": True, "created_at": yesterday}
    async with AsyncExitStack() as stack:
        log = await open_log(log_target(settings), migrate=True)
        stack.push_async_callback(log.close)
        projection = await open_projection(projection_target(settings), migrate=True)
        stack.push_async_callback(projection.close)
        async with projection.write() as connection:
            await connection.execute(insert(message), [row | {"id": str(ack), "ack": ack} for ack in (1, 2, 3)])
        observer = make_observer(settings, Stores(log, projection))
        assert math.isnan(sample("whatsms_events_free_bytes") or 0)
        await Watch(observer, Standings([], None, kafka=False, limits={}), {}).look()
        assert sample("whatsms_events_undelivered_messages", {"tenant": "shop"}) == 2
        free = sample("whatsms_events_free_bytes") or 0
        assert 0 < free <= shutil.disk_usage(tmp_path).total


async def test_free_bytes_are_not_shown_where_a_server_has_the_log(postgres_url: str) -> None:
    """This process does not see the server's disk."""
    log = await open_log(DatabaseTarget(postgres_url), migrate=True)
    assert log.free_bytes() is None
    await log.close()
