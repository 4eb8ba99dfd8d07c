"""No index of the doubtful rows alone: every question about doubt asks for the rows that only others named too."""

import sqlalchemy as sa
from alembic import op

revision = "0005_doubtful"
down_revision = "0004_told"
branch_labels = None
depends_on = None

_ENTITIES = ("ticket", "message", "contact", "campaign")


def upgrade() -> None:
    """Drop the indexes."""
    for table in _ENTITIES:
        op.drop_index(f"{table}_doubtful", table_name=table)


def downgrade() -> None:
    """Make them again: each reads its table once."""
    doubtful = sa.text("doubtful")
    for table in _ENTITIES:
        columns = ["tenant", "id"]
        op.create_index(f"{table}_doubtful", table, columns, postgresql_where=doubtful, sqlite_where=doubtful)
