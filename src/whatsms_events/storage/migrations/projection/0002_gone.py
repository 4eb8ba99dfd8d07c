"""Whether the vendor still has an entity, and an index of those that are in doubt or only named by others."""

import sqlalchemy as sa
from alembic import op

revision = "0002_gone"
down_revision = "0001_projection"
branch_labels = None
depends_on = None

_ENTITIES = ("ticket", "message", "contact", "campaign")
_UNSURE = "(doubtful OR NOT known)"


def upgrade() -> None:
    """Add the columns: a plain ALTER TABLE on both databases, no table is written anew."""
    for table in _ENTITIES:
        op.add_column(table, sa.Column("gone", sa.Boolean(), nullable=True))
    for table in ("ticket", "contact"):
        op.create_index(
            f"{table}_unsure",
            table,
            ["tenant", "id"],
            unique=False,
            postgresql_where=sa.text(_UNSURE),
            sqlite_where=sa.text(_UNSURE),
        )


def downgrade() -> None:
    """Drop them."""
    for table in ("ticket", "contact"):
        op.drop_index(f"{table}_unsure", table_name=table)
    for table in _ENTITIES:
        op.drop_column(table, "gone")
