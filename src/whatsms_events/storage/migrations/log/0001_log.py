"""The event log, its identity, redeliveries, parked deliveries and the relay's lower bound."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001_log"
down_revision = None
branch_labels = None
depends_on = None

# Positions are given out at INSERT but seen at COMMIT: with this lock, taken before the first position is drawn, the
# order of positions is the order of commits, so that a reader that goes on from its last position skips nothing. A
# statement trigger, since no writer can forget it (repair scripts and psql included).
_ORDER = """
CREATE FUNCTION event_log_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(8607103471254897509);
    RETURN NULL;
END $$
"""
_ORDER_TRIGGER = """
CREATE TRIGGER event_log_order BEFORE INSERT ON event_log FOR EACH STATEMENT EXECUTE FUNCTION event_log_order()
"""


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "event_log",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=True),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("ticket_id", sa.Text(), nullable=True),
        sa.Column("contact_id", sa.Text(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    log = op.create_table(
        "log",
        sa.Column("one", sa.SmallInteger(), nullable=False),
        sa.Column("log_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("one"),
    )
    op.create_table(
        "parked_delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("content_encoding", sa.Text(), nullable=True),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("parked_delivery_by_time", "parked_delivery", ["received_at", "id"], unique=False)
    op.create_table(
        "redelivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "relay",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("published_through", sa.BigInteger(), nullable=False),
        sa.Column("partitions", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("prefix"),
    )

    if op.get_bind().dialect.name == "postgresql":
        op.execute(_ORDER)
        op.execute(_ORDER_TRIGGER)
    # The log's identity, made once: readers of a restored or foreign log notice.
    op.bulk_insert(log, [{"one": 1, "log_id": uuid.uuid4(), "created_at": time.time_ns() // 1000}])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("relay")
    op.drop_table("redelivery")
    op.drop_index("parked_delivery_by_time", table_name="parked_delivery")
    op.drop_table("parked_delivery")
    op.drop_table("log")
    op.drop_table("event_log")

    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION event_log_order()")
