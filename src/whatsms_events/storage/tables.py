"""This module has every table for SQLAlchemy Core. The migrations make the tables; a test compares the two.

Times are integers: microseconds since 1970, so that both databases store and compare them exactly.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TextClause,
    Uuid,
)

from whatsms_events.domain.events import Entity
from whatsms_events.storage.columns import (
    DISCARDED,
    FAILED,
    OURS,
    UNDELIVERED,
    UNFINISHED,
    UNSURE,
    WANTED,
    Folded,
    Position,
)

log_metadata = MetaData()


def _partial(name: str, where: TextClause, *columns: str | Column[Any]) -> Index:
    """Return an index that holds only the rows of a condition."""
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


log = Table(
    "log",
    log_metadata,
    Column("one", SmallInteger, primary_key=True),  # always 1: one database holds one log
    Column("log_id", Uuid, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

event_log = Table(
    "event_log",
    log_metadata,
    # Order of commit (promise 3). AUTOINCREMENT: a position is never given out twice, also after a row is gone.
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("occurred_at", BigInteger),
    Column("received_at", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("subject", Text),
    Column("ticket_id", Text),
    Column("contact_id", Text),
    Column("message_id", Text),
    Column("sha256", LargeBinary, nullable=False),  # of `raw` alone: comparable with any sha256sum
    Column("data", Text),  # null where retention blanked it
    Column("raw", LargeBinary),
    Column("signed_by", Text),  # name of the secret that verified it; null: no signature, or an earlier release
    sqlite_autoincrement=True,
)

redelivery = Table(
    "redelivery",
    log_metadata,
    Column("id", Uuid, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_received_at", BigInteger, nullable=False),
)

parked_delivery = Table(
    "parked_delivery",
    log_metadata,
    Column("id", Uuid, primary_key=True),  # the same function of tenant and bytes as an event's id
    Column("tenant", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("content_encoding", Text),
    Column("sha256", LargeBinary, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("count", Integer, nullable=False),  # how often it came
    Column("signed_by", Text),  # as in `event_log`
    Column("discarded_at", BigInteger),  # null while it is parked; until retention takes it, it can be restored
    Index("parked_delivery_by_time", "received_at", "id"),
    _partial("parked_delivery_discarded", DISCARDED, "discarded_at", "reason", "received_at"),
)

secret_use = Table(
    "secret_use",
    log_metadata,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),  # never the secret itself
    Column("first_at", BigInteger, nullable=False),  # when a delivery that it signed came
    Column("last_at", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
)

seal = Table(
    "seal",
    log_metadata,
    # Two that begin at one position cannot be: two who seal at a time make one chain.
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("hash", LargeBinary, nullable=False),  # chained to the seal before: see `domain.seals`
    Column("marks", LargeBinary, nullable=False),  # tell which row differs
    Column("sealed_at", BigInteger, nullable=False),
)

retention = Table(
    "retention",
    log_metadata,
    Column("term", Text, primary_key=True),  # names a kind, how long it is kept, and whose it is: a hash
    Column("kind", Text, nullable=False),
    Column("through", BigInteger, nullable=False),  # every row up to here is done, but for what was left
    Column("left_at", BigInteger),  # the first row that was passed as too young
    Column("left_due", BigInteger),  # when the first of those is due
    Column("updated_at", BigInteger, nullable=False),
)

log_move = Table(
    "log_move",
    log_metadata,
    Column("one", SmallInteger, primary_key=True),
    Column("state", Text, nullable=False),  # "coming": this copy is not whole yet; "gone": the log lives elsewhere
    Column("place", Text, nullable=False),  # where the other one is, without a password
    Column("at", BigInteger, nullable=False),
)

relay = Table(
    "relay",
    log_metadata,
    Column("prefix", Text, primary_key=True),
    Column("published_through", BigInteger, nullable=False),  # lower bound: every row up to it is visible in Kafka
    Column("partitions", Text, nullable=False),  # JSON: per topic its count, per partition the last visible position
    Column("updated_at", BigInteger, nullable=False),
)

backfill_run = Table(
    "backfill_run",
    log_metadata,
    Column("run", Position, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),  # reconcile or repair
    Column("cause", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("generation", BigInteger, nullable=False),  # moved by each process that takes the run up
    Column("started_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("progress", Text, nullable=False),  # JSON, the worker's own
    Column("report", Text),  # JSON, once it is finished
    Column("stopped_by", Text),  # who stopped it before its end: then it has no report
    # One per tenant.
    Index("backfill_run_unfinished", "tenant", unique=True, postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
    sqlite_autoincrement=True,
)
backfill_item = Table(
    "backfill_item",
    log_metadata,
    Column("run", BigInteger, primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("as_of", BigInteger),
    Column("log_end", BigInteger, nullable=False),
    Column("rounds", Integer, nullable=False),
    Column("payload", LargeBinary),
    Column("ticket_id", Text),
    Column("messages", Text, nullable=False),
    Column("raw", LargeBinary),  # the bytes of an observation that is about to be appended
    Column("found", LargeBinary),  # and its event
    Index("backfill_item_by_due", "run", "state", "due_at", "entity", "id"),
    _partial("backfill_item_wanted", WANTED, "run", "entity", "id"),
)
backfill_drift = Table(
    "backfill_drift",
    log_metadata,
    Column("run", BigInteger, primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("fields", Text, nullable=False),  # JSON
    Column("age_s", Float),
    Column("found_at", BigInteger, nullable=False),
)

backfill_look = Table(
    "backfill_look",
    log_metadata,
    Column("tenant", Text, primary_key=True),
    Column("entity", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # the entity's position when it was looked at
    Column("first_at", BigInteger, nullable=False),  # the first look at this position
    Column("last_at", BigInteger, nullable=False),
    Column("looks", Integer, nullable=False),
)

backfill_request = Table(
    "backfill_request",
    log_metadata,
    Column("tenant", Text, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
)

replay = Table(
    "replay",
    log_metadata,
    Column("id", Uuid, primary_key=True),
    Column("target", Text, nullable=False),  # projection or kafka
    Column("prefix", Text, nullable=False),  # of the shadow topics; empty for the projection
    Column("selection", Text, nullable=False),  # JSON
    Column("release", Text, nullable=False),  # that began it: another one would read events in another way
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("outcome", Text),
    # One for each place that is written to.
    Index("replay_unfinished", "target", "prefix", unique=True, postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
)

erasure = Table(
    "erasure",
    log_metadata,
    Column("number", Position, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("ids", Text, nullable=False),  # JSON: all contacts of the person, and their tickets, as far as known
    Column("forgotten_at", BigInteger, nullable=False),
    Column("log_end", BigInteger, nullable=False),  # what stands up to here is from before, whatever its times say
    Column("event_id", Uuid),  # of `contact.forgotten`; null until it is appended, or where it was imported
    Column("through", BigInteger, nullable=False),  # how far the log was looked through; up to `until` it must be
    Column("until", BigInteger, nullable=False),
    Column("kafka_until", BigInteger),  # when our topics hold nothing of the person any more
    Column("blanked", Text, nullable=False),  # JSON: by table, how many rows
    Column("finished_at", BigInteger),
    Index("erasure_by_contact", "tenant", "contact_id"),
    sqlite_autoincrement=True,
)

suppression = Table(
    "suppression",
    log_metadata,
    # In the order of commits, as in `event_log`: one process at a time adds to it. A reader goes on from the last one.
    Column("number", Position, primary_key=True, autoincrement=True),
    Column("tenant", Text, nullable=False),
    Column("mark", LargeBinary, nullable=False),  # a keyed hash: see `domain.marks`
    Column("forgotten_at", BigInteger, nullable=False),
    Column("key_check", LargeBinary, nullable=False),  # tells whether the key is the one that made it
    sqlite_autoincrement=True,
)

key_holder = Table(
    "key_holder",
    log_metadata,
    Column("process", Text, primary_key=True),  # one that appends: its machine and its number there
    Column("fingerprint", Text),  # of its `privacy.key`; null where it has none
    Column("started_at", BigInteger, primary_key=True, autoincrement=False),
    Column("seen_at", BigInteger, nullable=False),
)

peer = Table(
    "peer",
    log_metadata,
    Column("name", Text, primary_key=True),  # of a process that serves: its machine and its number there
    Column("started_at", BigInteger, primary_key=True, autoincrement=False),
    Column("seen_at", BigInteger, nullable=False),  # by the database's clock
    Column("told", Text, nullable=False),  # JSON: how each of its roles is
)

projection_metadata = MetaData()

projection = Table(
    "projection",
    projection_metadata,
    Column("one", SmallInteger, primary_key=True),
    Column("generation", BigInteger, nullable=False),  # moved by compare-and-swap in every transaction that saves
    Column("log_id", Uuid),
    Column("position", BigInteger, nullable=False),  # checkpoint in the log (while it is the source)
    Column("event_id", Uuid),
    Column("applied_through", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),  # events applied, for the operator
)

projection_offset = Table(
    "projection_offset",
    projection_metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
)


def _row(name: str, *columns: Column[object], found_by: Sequence[Column[object]] = ()) -> Table:
    """Return an entity's table: key, `known`, the derived doubt, columns of its fields, and their versions.

    `found_by` are columns that only questions use: what `domain.search` makes of the fields.
    """
    return Table(
        name,
        projection_metadata,
        Column("tenant", Text, primary_key=True),
        Column("id", Text, primary_key=True),
        Column("known", Boolean, nullable=False),  # false: a stub, only named by others so far
        Column("doubtful", Boolean, nullable=False),
        *columns,
        Column("gone", Boolean),  # true where the vendor no longer has it
        Column("versions", Text, nullable=False),  # JSON: register -> [version time, rank, position, doubtful?, aside?]
        *found_by,
    )


ticket = _row(
    "ticket",
    Column("status", Text),
    Column("channel", Text),
    Column("contact_id", Text),
    Column("user_id", Text),
    Column("user_name", Text),
    Column("queue_id", Text),
    Column("queue_name", Text),
    Column("user_named", Text),  # JSON: the last agent that was told with a name, id and name
    Column("queue_named", Text),
    Column("ai_agent_id", Text),
    Column("last_message", Text),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
)
Index("ticket_by_status", ticket.c.tenant, ticket.c.status, ticket.c.id)
Index("ticket_by_contact", ticket.c.tenant, ticket.c.contact_id, ticket.c.id)
Index("ticket_by_age", ticket.c.tenant, ticket.c.status, ticket.c.created_at, ticket.c.id)

message = _row(
    "message",
    Column("ticket_id", Text),
    Column("contact_id", Text),
    Column("from_me", Boolean),
    Column("body", Text),
    Column("media_type", Text),
    Column("media_url", Text),
    Column("deleted", Boolean),
    Column("quoted_message_id", Text),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
    Column("ack", SmallInteger),  # the highest level seen, 1 to 5
    Column("pending_at", BigInteger),  # the earliest time at which an event told of each level
    Column("sent_at", BigInteger),
    Column("delivered_at", BigInteger),
    Column("read_at", BigInteger),
    Column("played_at", BigInteger),
    Column("pending_by", BigInteger),  # the earliest time at which a backfill saw that it had been reached
    Column("sent_by", BigInteger),
    Column("delivered_by", BigInteger),
    Column("read_by", BigInteger),
    Column("played_by", BigInteger),
    Column("failed_at", BigInteger),  # the earliest ack of 0 or less; whether it counts is decided when read
)
Index("message_by_ticket", message.c.tenant, message.c.ticket_id, message.c.created_at, message.c.id)
_partial("message_undelivered", UNDELIVERED, message.c.tenant, message.c.created_at)
_partial("message_failed", FAILED, message.c.tenant, message.c.created_at, message.c.id)
_partial("message_of_ours", OURS, message.c.tenant, message.c.created_at)

message_revision = Table(
    "message_revision",
    projection_metadata,
    Column("tenant", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),  # of (body, media_type, deleted), absent told from null
    Column("content", Text, nullable=False),  # JSON object of what was present
    Column("media_url", Text),
    Column("first_at", BigInteger, nullable=False),
    Column("versions", Text, nullable=False),
)

FOUND_BY: Final = ("folded_name", "digits", "digits_backwards", "last_name_first")
"""Columns of `contact` that repeat a name or a number so that it is found. No answer shows them."""

contact = _row(
    "contact",
    Column("name", Text),
    Column("number", Text),
    Column("email", Text),
    Column("profile_pic_url", Text),
    Column("is_group", Boolean),
    Column("extra_info", Text),  # JSON
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
    found_by=[Column(name, Folded) for name in FOUND_BY],
)
for _name, _column in zip(("name", "digits", "ending", "last_name"), FOUND_BY, strict=True):
    Index(f"contact_by_{_name}", contact.c.tenant, contact.c[_column], contact.c.id)
for _table in (ticket, contact):
    # For prefixes of ids. SQLite takes the primary key; PostgreSQL's follows the language of the database.
    _by_id = Index(f"{_table.name}_by_id", _table.c.tenant, _table.c.id, postgresql_ops={"id": "text_pattern_ops"})
    _by_id.ddl_if(dialect="postgresql").info["only"] = "postgresql"

campaign = _row(
    "campaign",
    Column("name", Text),
    Column("status", Text),
    Column("message", Text),
    Column("scheduled_at", BigInteger),
    Column("sent_count", BigInteger),
    Column("failed_count", BigInteger),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
)

ENTITIES: Final[dict[Entity, Table]] = {"ticket": ticket, "message": message, "contact": contact, "campaign": campaign}

for _table in (ticket, contact, campaign):
    _partial(f"{_table.name}_unsure", UNSURE, _table.c.tenant, _table.c.id)
_partial("message_unsure", UNSURE, message.c.tenant, message.c.ticket_id, message.c.id)

parked_event = Table(
    "parked_event",
    projection_metadata,
    # Where it was read: "log" and its position, or a topic-partition and its offset.
    Column("source", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True),
    Column("event_id", Uuid),
    Column("position", BigInteger),
    Column("tenant", Text),
    Column("type", Text),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),  # the record's value or the row's data, verbatim
    Column("headers", Text, nullable=False),  # JSON
    Column("discarded_at", BigInteger),  # as in `parked_delivery`
    _partial("parked_event_discarded", DISCARDED, "discarded_at", "reason", "parked_at"),
)
