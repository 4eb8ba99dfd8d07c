"""What a replay remembers: what it takes, which release began it, and how it ended."""

import sqlalchemy as sa
from alembic import op

revision = "0004_replay"
down_revision = "0003_signed_by"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "replay",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("selection", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    where = sa.text("finished_at IS NULL")
    columns = ["target", "prefix"]
    op.create_index("replay_unfinished", "replay", columns, unique=True, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("replay")
