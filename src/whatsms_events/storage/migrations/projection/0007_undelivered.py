"""An index of our messages that have not reached the contact, for the gauge that counts those of a day ago."""

import sqlalchemy as sa
from alembic import op

revision = "0007_undelivered"
down_revision = "0006_short"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index: the table is read once, and few of its rows enter the index."""
    where = sa.text("(from_me AND ack < 3 AND failed_at IS NULL)")
    columns = ["tenant", "created_at"]
    op.create_index("message_undelivered", "message", columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("message_undelivered", table_name="message")
