"""Who stopped a backfill run before its end."""

import sqlalchemy as sa
from alembic import op

revision = "0008_stopped_by"
down_revision = "0007_erasure"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no run was stopped so far."""
    op.add_column("backfill_run", sa.Column("stopped_by", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("backfill_run", "stopped_by")
