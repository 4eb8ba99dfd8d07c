"""Indexes of the messages and campaigns that are in doubt or only named by others, as tickets and contacts have."""

import sqlalchemy as sa
from alembic import op

revision = "0003_unsure"
down_revision = "0002_gone"
branch_labels = None
depends_on = None

_UNSURE = "(doubtful OR NOT known)"
_COLUMNS = {"campaign": ["tenant", "id"], "message": ["tenant", "ticket_id", "id"]}


def upgrade() -> None:
    """Make them: each reads its table once."""
    for table, columns in _COLUMNS.items():
        op.create_index(
            f"{table}_unsure",
            table,
            columns,
            unique=False,
            postgresql_where=sa.text(_UNSURE),
            sqlite_where=sa.text(_UNSURE),
        )


def downgrade() -> None:
    """Drop them."""
    for table in _COLUMNS:
        op.drop_index(f"{table}_unsure", table_name=table)
