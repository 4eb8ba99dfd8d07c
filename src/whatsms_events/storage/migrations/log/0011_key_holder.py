"""Which processes append, and which `privacy.key` each has, by a fingerprint."""

import sqlalchemy as sa
from alembic import op

revision = "0011_key_holder"
down_revision = "0010_discarded"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "key_holder",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text()),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("process", "started_at"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("key_holder")
