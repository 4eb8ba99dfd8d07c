"""Which agent and queue a name belongs to, and by when a backfill saw an ack, apart from when an event told of it."""

import sqlalchemy as sa
from alembic import op

revision = "0004_told"
down_revision = "0003_unsure"
branch_labels = None
depends_on = None

_GROUPS = ("user", "queue")
_LEVELS = ("pending", "sent", "delivered", "read", "played")


def upgrade() -> None:
    """Add the columns: a plain ALTER TABLE on both databases. A name that is there was told of the id beside it."""
    for group in _GROUPS:
        op.add_column("ticket", sa.Column(f"{group}_named", sa.Text(), nullable=True))
    for level in _LEVELS:
        op.add_column("message", sa.Column(f"{level}_by", sa.BigInteger(), nullable=True))
    for group in _GROUPS:
        _fill(group)


def _fill(group: str) -> None:
    """Give the new register the value and the version that the two had together."""
    if op.get_bind().dialect.name == "postgresql":
        text, version = "coalesce(to_json({}::text)::text, 'null')", f"versions::json -> '{group}'"
    else:
        text, version = "json_quote({})", f"json_extract(versions, '$.{group}')"
    pair = f"'[' || {text.format(f'{group}_id')} || ',' || {text.format(f'{group}_name')} || ']'"
    op.execute(
        f"UPDATE ticket SET {group}_named = {pair}, "  # noqa: S608 - names of this module alone
        f"""versions = '{{"{group}_named":' || ({version}) || ',' || substr(versions, 2) """
        f"WHERE {group}_name IS NOT NULL AND ({version}) IS NOT NULL"
    )


def downgrade() -> None:
    """Drop them; the registers that they belong to stay in `versions`, and mean nothing there."""
    for group in _GROUPS:
        op.drop_column("ticket", f"{group}_named")
    for level in _LEVELS:
        op.drop_column("message", f"{level}_by")
