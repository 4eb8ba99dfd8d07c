"""An index of what was discarded by when it was, for the page that counts each discard."""

import sqlalchemy as sa
from alembic import op

revision = "0012_by_discard"
down_revision = "0011_key_holder"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index: the table is read once, and only what was discarded enters the index."""
    where = sa.text("discarded_at IS NOT NULL")
    columns = ["discarded_at", "reason", "received_at"]
    op.create_index("parked_delivery_discarded", "parked_delivery", columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("parked_delivery_discarded", table_name="parked_delivery")
