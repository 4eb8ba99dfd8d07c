"""Reconciles that a process asks for, and whichever has the role backfill makes."""

import sqlalchemy as sa
from alembic import op

revision = "0009_request"
down_revision = "0008_stopped_by"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "backfill_request",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("backfill_request")
