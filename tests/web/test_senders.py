"""A sender that nobody understands, or whose clock is wrong, is told of: over real HTTP, with a real log behind it."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from servers.metric import sample
from servers.service import SLUG, TENANT, Service
from test_journey import delivery as delivered
from test_journey import post
from web.test_receiver import NOON, Door, delivery, opened


class Clock:
    """Our clock at the door."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


def gauge(name: str) -> float | None:
    """Return what a gauge shows of the tenant."""
    return sample(f"whatsms_events_{name}", {"tenant": "acme"})


@pytest.fixture
def clock() -> Clock:
    """Give the door's clock."""
    return Clock()


@pytest.fixture
async def door(tmp_path: Path, clock: Clock) -> AsyncIterator[Door]:
    """Run a receiver with that clock."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", now=clock) as found:
        yield found


def shown(door: Door) -> dict[str, Any]:
    """Return the detail of /readyz."""
    detail = door.receiver.details()["door.acme"]
    assert isinstance(detail, dict)
    return detail


async def test_deliveries_that_are_all_parked_are_an_alarm(door: Door) -> None:
    """Five signed deliveries parked for one reason: one error line, a gauge and a detail; an accepted one ends it."""
    with structlog.testing.capture_logs() as lines:
        for number in range(7):
            assert (await door.post(delivery(number, tenantId="another"))).status == 202
        assert shown(door)["state"] == "alarm"
        assert (shown(door)["parked_in_a_row"], shown(door)["parked_reason"]) == (7, "other_tenant")
        assert gauge("parked_in_a_row") == 7
        assert (await door.post(delivery(8))).status == 200
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["tenant"], line["reason"]) == ("deliveries.parked", "acme", "other_tenant")
    assert "tenants.<slug>.tenant_id" in line["detail"]
    assert [line["event"] for line in lines].count("deliveries.understood") == 1
    assert (shown(door)["state"], gauge("parked_in_a_row")) == ("ok", 0)


async def test_one_parked_delivery_that_comes_again_and_again_is_no_alarm(door: Door) -> None:
    """A sender that repeats one odd body says nothing of the others; what nobody signed says nothing at all."""
    for number in range(9):
        await door.post(delivery(1, event="message.exploded"))
        await door.post(delivery(number, tenantId="another"), secret=b"wrong")
    assert shown(door)["parked_in_a_row"] == 1
    for number in range(4):
        await door.post(delivery(number, event="message.exploded"))
        await door.post(delivery(99))  # accepted once, and then a duplicate, which is no news
    assert shown(door)["parked_in_a_row"] == 2


@pytest.mark.parametrize(("offset", "reading"), [(timedelta(hours=3), "behind"), (timedelta(hours=-3), "ahead")])
async def test_vendors_clock_that_is_wrong_is_an_alarm(
    door: Door, clock: Clock, offset: timedelta, reading: str
) -> None:
    """A lasting difference of `timestamp` to arrival: a gauge, a detail, one error line with both readings; an end."""
    with structlog.testing.capture_logs() as lines:
        for number in range(40):
            stamp = clock.now - (offset if number < 30 or offset < timedelta(0) else timedelta(seconds=1))
            assert (await door.post(delivery(number, timestamp=stamp.isoformat()))).status == 200
            clock.now += timedelta(minutes=1)
            if number == 29:
                assert (shown(door)["state"], shown(door)["clock"]) == ("alarm", "differs")
                assert gauge("clock_offset_seconds") == offset.total_seconds() == shown(door)["clock_offset_s"]
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert (line["event"], line["tenant"]) == ("clock.differs", "acme")
    assert f"vendor's clock is {reading}" in line["detail"]
    assert "queue" in line["detail"] or reading == "ahead"
    assert shown(door)["clock"] == ("agrees" if offset > timedelta(0) else "differs")


@pytest.mark.parametrize(("configured", "sent"), [(TENANT, TENANT.upper()), (f"{{{TENANT.upper()}}}", TENANT)])
@pytest.mark.process
async def test_tenant_in_another_spelling_is_the_same_tenant(tmp_path: Path, configured: str, sent: str) -> None:
    """The service accepts its tenant in any spelling of a UUID, keeps the configured one, and tells of another's."""
    service = Service(tmp_path / "service", settings={f"tenants.{SLUG}": {"tenant_id": configured}})
    await service.start()
    body = delivered("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
    async with aiohttp.ClientSession() as session:
        assert (await post(session, service, body.replace(TENANT.encode(), sent.encode())))["status"] == 200
        async with session.get(f"{service.private_url}/api/v1/events") as answer:
            (event,) = (await answer.json())["events"]
        assert event["tenant_id"] == configured
        for number in range(5):
            other = body.replace(TENANT.encode(), b"x").replace(b"t-1", b"t-%d" % number)
            assert (await post(session, service, other))["parked"] == "other_tenant"
        async with session.get(f"{service.private_url}/readyz") as answer:
            assert answer.status == 200
            detail = (await answer.json())["details"][f"door.{SLUG}"]
    assert (detail["state"], detail["parked_in_a_row"], detail["parked_reason"]) == ("alarm", 5, "other_tenant")
    assert [line["level"] for line in service.lines() if line["event"] == "deliveries.parked"] == ["error"]
    await service.stop()
