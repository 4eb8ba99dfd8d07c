"""A broker that comes back sooner than Kafka's defaults let it."""

from collections.abc import AsyncIterator

import pytest

from servers.kafka import Broker


@pytest.fixture
async def quick_broker(new_broker: Broker) -> AsyncIterator[Broker]:
    """Give a Kafka broker of this test alone, running; its dead incarnation is forgotten after two seconds."""
    new_broker.properties |= {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "250"}
    try:
        await new_broker.start()
        yield new_broker
    finally:
        await new_broker.remove()
