"""When a parked event was discarded: it stays for a while, and can be restored."""

import sqlalchemy as sa
from alembic import op

revision = "0010_discarded"
down_revision = "0009_last_name"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what was discarded so far is gone."""
    op.add_column("parked_event", sa.Column("discarded_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Remove what is discarded, as the older release would have, and drop the column."""
    op.execute("DELETE FROM parked_event WHERE discarded_at IS NOT NULL")
    op.drop_column("parked_event", "discarded_at")
