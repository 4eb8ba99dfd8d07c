"""Versions without the end that nearly all of them share: not doubtful, and nothing to remember beside the winner."""

from alembic import op

revision = "0006_short"
down_revision = "0005_doubtful"
branch_labels = None
depends_on = None

_TABLES = ("ticket", "message", "message_revision", "contact", "campaign")

# `versions` holds names of registers, numbers, flags and nulls, so these pieces of text stand nowhere but at the end of
# a version: what it remembers beside the winner ends with a number, a list or a null behind another null or a list.
_ENDS = ((",false,null]", "]"), (",true,null]", ",true]"), (",false]", "]"))


def upgrade() -> None:
    """Cut the ends off. Each row that has one is written anew, which on both databases is one statement per table."""
    for table in _TABLES:
        short = "versions"
        for long, end in _ENDS:
            short = f"replace({short}, '{long}', '{end}')"
        where = " OR ".join(f"versions LIKE '%{long}%'" for long, _ in _ENDS)
        op.execute(f"UPDATE {table} SET versions = {short} WHERE {where}")  # noqa: S608 - texts of this module alone


def downgrade() -> None:
    """Do nothing: the releases before read a version without its end too."""
