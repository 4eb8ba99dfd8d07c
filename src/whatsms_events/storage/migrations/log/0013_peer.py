"""Which processes serve, and how each of their roles is."""

import sqlalchemy as sa
from alembic import op

revision = "0013_peer"
down_revision = "0012_by_discard"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "peer",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("told", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "started_at"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("peer")
