"""What a backfill remembers: its runs, the entities of the one under way, what was found, and who was looked at."""

import sqlalchemy as sa
from alembic import op

revision = "0002_backfill"
down_revision = "0001_log"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "backfill_drift",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.Column("age_s", sa.Float(), nullable=True),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "entity", "id", "kind"),
    )
    op.create_table(
        "backfill_item",
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=True),
        sa.Column("log_end", sa.BigInteger(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("ticket_id", sa.Text(), nullable=True),
        sa.Column("messages", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.Column("found", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run", "entity", "id"),
    )
    op.create_index("backfill_item_by_due", "backfill_item", ["run", "state", "due_at", "entity", "id"], unique=False)
    op.create_index(
        "backfill_item_wanted",
        "backfill_item",
        ["run", "entity", "id"],
        unique=False,
        postgresql_where=sa.text("messages = 'wanted'"),
        sqlite_where=sa.text("messages = 'wanted'"),
    )
    op.create_table(
        "backfill_look",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "entity", "id"),
    )
    op.create_table(
        "backfill_run",
        sa.Column("run", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "backfill_run_unfinished",
        "backfill_run",
        ["tenant"],
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("backfill_run", "backfill_look", "backfill_item", "backfill_drift"):
        op.drop_table(table)
