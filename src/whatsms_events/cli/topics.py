"""`topics create`: make the Kafka topics that the relay publishes to."""

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.errors import ConfigError
from whatsms_events.kafka.topics import create_topics
from whatsms_events.service.parts import kafka_target


def create(*, options: SettingsOptions = DEFAULTS) -> int:
    """Create the three topics; those that exist are compared with the settings and never changed."""
    settings = options.load()

    target = kafka_target(settings)
    if target is None:
        raise ConfigError("kafka.bootstrap_servers: is not set")
    kafka = settings.kafka
    creating = create_topics(
        target,
        kafka.topic_prefix,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        retention_ms=kafka.retention_ms,
    )
    created = run(creating)
    for name in created:
        print(f"created {name}")
    if not created:
        print("all topics are there already")
    return 0
