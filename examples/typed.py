"""Read the topic of conversations as typed events: print what contacts wrote, and which tickets were closed.

    python examples/typed.py kafka.example:9092
    python examples/typed.py kafka.example:9092 --until-end

It needs `pip install confluent-kafka` and this package, of which `whatsms_events.consume` is all it uses. It keeps no
place, so it begins anew each time: `consumer.py` shows how a place is kept.
"""

import argparse
import sys
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from whatsms_events import consume
from whatsms_events.domain.events import EventType, MessagePayload
from whatsms_events.errors import InvalidEventError

TOPIC: Final = "conversations"


def connect(servers: str, topic: str) -> tuple[Consumer, int]:
    """Return a consumer that begins at the beginning of every partition, and how many there are."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "typed",  # the client wants one; nothing is committed under it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
    return consumer, len(partitions)


def told(record: Message) -> str | None:
    """Return a line about a record; none where the event is of no interest here, or is none."""
    given = dict(record.headers() or ())
    headers = [(name, value) for name, value in given.items() if isinstance(value, bytes)]
    try:
        consumed = consume.from_kafka(headers, record.value())
    except InvalidEventError as exc:
        return f"no event: {exc.reason}"  # of a later release, or somebody else's
    match consumed.event.type, consumed.data:
        case EventType.MESSAGE_RECEIVED, MessagePayload(message=message):
            return f"{consumed.event.ticket_id} wrote {message.body}"
        case EventType.TICKET_CLOSED, _:
            return f"{consumed.event.ticket_id} closed"
        case _:
            return None


def main() -> None:
    """Read for ever, or until the end of every partition."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("servers")
    asked.add_argument("--prefix", default="whatsms", help="kafka.topic_prefix")
    asked.add_argument("--until-end", action="store_true")
    given = asked.parse_args()
    consumer, partitions = connect(given.servers, f"{given.prefix}.{TOPIC}")
    ended: set[int | None] = set()
    while not (given.until_end and len(ended) == partitions):
        record = consumer.poll(1.0)
        if record is None:
            continue
        error = record.error()
        if error is None:
            if line := told(record):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        elif error.name() == "_PARTITION_EOF":
            ended.add(record.partition())
        else:
            raise KafkaException(error)
    consumer.close()


if __name__ == "__main__":
    main()
