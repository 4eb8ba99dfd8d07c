"""An index of our messages that failed and did not arrive, for the page that names them."""

import sqlalchemy as sa
from alembic import op

revision = "0012_failed"
down_revision = "0011_by_discard"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index: the table is read once, and few of its rows enter the index."""
    where = sa.text("(from_me AND failed_at IS NOT NULL AND (ack IS NULL OR ack < 3))")
    columns = ["tenant", "created_at", "id"]
    op.create_index("message_failed", "message", columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("message_failed", table_name="message")
