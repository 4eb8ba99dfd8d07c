"""Traces look records up in a Kafka that does not answer: few at a time, and nobody waits for ever."""

import asyncio
from pathlib import Path

from servers.compare import until
from servers.ports import HOST
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.kafka.connection import KafkaTarget
from whatsms_events.service.record_finder import PLACES, RecordFinder
from whatsms_events.storage.database import DatabaseTarget, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.trace import EventFacts, Traces
from workers.test_relay import append, opened


async def facts_of_one(folder: Path) -> EventFacts:
    """Return what is known of the one event of a new log."""
    async with opened(folder / "log.db") as log:
        await append(log, 1)
        projection = await open_projection(DatabaseTarget(f"sqlite:///{folder / 'projection.db'}"), migrate=True)
        traces = Traces(log, projection)
        (entry,) = await EventLog(log).read(0, 1)
        found = await traces.event(entry.event.id)
        await projection.close()
    assert found is not None
    return found


async def test_few_traces_ask_kafka_at_a_time(tmp_path: Path) -> None:
    """However many traces are asked for, no more than PLACES of them have a connection to the broker. Who gets no place
    in time is told that Kafka is unavailable, and a place that is given back goes to the next.
    """
    facts = await facts_of_one(tmp_path)
    connections = list[asyncio.StreamWriter]()
    silent = await asyncio.start_server(lambda _reader, writer: connections.append(writer), HOST, 0)
    place = f"{HOST}:{silent.sockets[0].getsockname()[1]}"
    async with opened(tmp_path / "log.db") as log:
        finder = RecordFinder(log, KafkaTarget(place, timeout_s=120), "x")
        searches = [asyncio.create_task(finder.find(facts, within_s=120)) for _number in range(3 * PLACES)]
        await until(lambda: len(connections) >= PLACES, 60, "the first searches reach the broker")
        late = await asyncio.gather(*(finder.find(facts, within_s=0.2) for _number in range(9)))
        assert late == [RecordPlace("unavailable")] * 9
        assert len(connections) == PLACES
        searches[0].cancel()
        await until(lambda: len(connections) > PLACES, 60, "the next search reaches the broker")
        for search in searches:
            search.cancel()
        await asyncio.wait(searches)
    for writer in connections:
        writer.close()
    silent.close()
    await silent.wait_closed()
