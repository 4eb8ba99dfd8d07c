"""Find the record of an event in Kafka for `trace`: nothing that Kafka does ends a trace."""

import asyncio
import time
from typing import Final

from whatsms_events.domain.records import to_record
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.errors import ConfigError, IntegrityError, TransientError
from whatsms_events.kafka.connection import KafkaTarget
from whatsms_events.kafka.lookup import Lookup
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.trace import EventFacts

LOOKUP_S: Final = 15.0
"""A search takes tens of short reads; a slower broker is as good as away. Waiting for a place counts too."""

PLACES: Final = 4
"""Searches at a time in one process: each has its own connections to the brokers, and nothing bounds the requests."""


class RecordFinder:
    """Finds records of one log's database. `target` is None without Kafka."""

    def __init__(self, log: Database, target: KafkaTarget | None, prefix: str) -> None:
        self._rows = RelayRows(log)
        self._target = target
        self._prefix = prefix
        self._places = asyncio.Semaphore(PLACES)

    async def find(self, found: EventFacts, *, within_s: float = LOOKUP_S) -> RecordPlace:
        """Return where an event's record is, or why it is not found."""
        if self._target is None:
            return RecordPlace("off")
        try:
            async with asyncio.timeout(within_s), self._places:
                published = await self._rows.load(self._prefix)
                lookup = Lookup(self._target, self._prefix, found.log_id, monotonic=time.monotonic)
                through = 0 if published is None else published.published_through
                return await lookup.find(to_record(found.entry, found.log_id), found.entry.position, through)
        except (TransientError, ConfigError, IntegrityError, TimeoutError):
            return RecordPlace("unavailable")
