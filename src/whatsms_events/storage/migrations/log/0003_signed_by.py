"""Which secret verified each delivery, by its name, and how long each secret of a tenant has been in use."""

import sqlalchemy as sa
from alembic import op

revision = "0003_signed_by"
down_revision = "0002_backfill"
branch_labels = None
depends_on = None

_TABLES = ("event_log", "parked_delivery")


def upgrade() -> None:
    """Add the columns, which rewrites no row on either database, and the table. Of older rows it is not known."""
    for table in _TABLES:
        op.add_column(table, sa.Column("signed_by", sa.Text(), nullable=True))
    op.create_table(
        "secret_use",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("secret_use")
    for table in _TABLES:
        op.drop_column(table, "signed_by")
