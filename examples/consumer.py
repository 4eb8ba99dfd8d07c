"""Read the topic of conversations exactly once into a SQLite file: which ticket has how many messages.

    python examples/consumer.py kafka.example:9092 counts.db
    python examples/consumer.py kafka.example:9092 counts.db --until-end

It needs `pip install confluent-kafka`, and nothing of whatsms-events. The counts and how far it got are saved in one
transaction, so a crash at any moment neither loses an event nor counts it twice. Partitions that are added later are
read from the next start on.
"""

import argparse
import sqlite3
import sys
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

TOPIC: Final = "conversations"
COUNTED: Final = {"pt.whatsms.message.received", "pt.whatsms.message.sent"}

TABLES: Final = """
CREATE TABLE IF NOT EXISTS ticket (tenant TEXT, id TEXT, messages INTEGER, PRIMARY KEY (tenant, id));
CREATE TABLE IF NOT EXISTS progress
    (topic TEXT, part INTEGER, log_id TEXT, sequence TEXT, next INTEGER, PRIMARY KEY (topic, part));
"""


def connect(servers: str) -> Consumer:
    """Return a consumer that sees committed records only and leaves it to us how far it got."""
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "ticket-counts",  # the client wants one; nothing is committed under it
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )


def apply(database: sqlite3.Connection, record: Message) -> None:
    """Count one record and note how far we got, in one transaction; skip what was counted before."""
    given = dict(record.headers() or ())
    headers = {name: value.decode() for name, value in given.items() if isinstance(value, bytes)}
    where = (record.topic(), record.partition())
    log_id, sequence = headers.get("ce_logid"), headers.get("ce_sequence")
    if log_id is None or sequence is None:
        return  # somebody else's record
    with database:
        seen = database.execute("SELECT log_id, sequence FROM progress WHERE topic = ? AND part = ?", where).fetchone()
        if seen is not None and seen[0] != log_id:
            raise SystemExit(f"{where} is of log {log_id} now, not of {seen[0]}: begin anew with an empty file")
        # 19 digits, so text sorts as numbers do.
        if seen is None or sequence > seen[1]:
            if headers.get("ce_type") in COUNTED and "ce_ticketid" in headers:
                database.execute(
                    "INSERT INTO ticket VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET messages = messages + 1",
                    (headers["ce_tenant"], headers["ce_ticketid"]),
                )
            database.execute(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
                (*where, log_id, sequence, (record.offset() or 0) + 1),
            )


def places(consumer: Consumer, database: sqlite3.Connection, topic: str) -> list[TopicPartition]:
    """Return where to begin in each partition: behind what is saved, else at its beginning."""
    saved = dict(database.execute("SELECT part, next FROM progress WHERE topic = ?", (topic,)))
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    return [TopicPartition(topic, number, saved.get(number, OFFSET_BEGINNING)) for number in partitions]


def main() -> None:
    """Read for ever, or until the end of every partition."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("servers")
    asked.add_argument("file")
    asked.add_argument("--prefix", default="whatsms", help="kafka.topic_prefix")
    asked.add_argument("--until-end", action="store_true")
    given = asked.parse_args()
    database = sqlite3.connect(given.file)
    database.executescript(TABLES)
    consumer = connect(given.servers)
    begin = places(consumer, database, f"{given.prefix}.{TOPIC}")
    consumer.assign(begin)
    ended: set[int | None] = set()
    while not (given.until_end and len(ended) == len(begin)):
        record = consumer.poll(1.0)
        if record is None:
            continue
        error = record.error()
        if error is None:
            apply(database, record)
        elif error.name() == "_PARTITION_EOF":
            ended.add(record.partition())
        else:
            raise KafkaException(error)
    consumer.close()
    for tenant, ticket, messages in database.execute("SELECT * FROM ticket ORDER BY tenant, id"):
        sys.stdout.write(f"{tenant} {ticket} {messages}\n")


if __name__ == "__main__":
    main()
