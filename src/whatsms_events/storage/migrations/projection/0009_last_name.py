"""The last word of a contact's name first, so that people are found by their family name too."""

import sqlalchemy as sa
from alembic import op

from whatsms_events.domain.search import searched

revision = "0009_last_name"
down_revision = "0008_found_by"
branch_labels = None
depends_on = None

_PAGE = 1000

_contact = sa.table("contact", *map(sa.column, ("tenant", "id", "name", "number", "last_name_first")))


def upgrade() -> None:
    """Add the column, fill it, and make its index."""
    collation = "C" if op.get_bind().dialect.name == "postgresql" else None
    op.add_column("contact", sa.Column("last_name_first", sa.Text(collation=collation), nullable=True))
    _fill()
    op.create_index("contact_by_last_name", "contact", ["tenant", "last_name_first", "id"])


def _fill() -> None:
    """Turn the name of each contact around that has several words, page by page."""
    connection, column = op.get_bind(), _contact.c
    page = sa.select(column.tenant, column.id, column.name, column.number).order_by(column.tenant, column.id)
    page = page.limit(_PAGE)
    change = sa.update(_contact).where(column.tenant == sa.bindparam("t"), column.id == sa.bindparam("i"))
    change = change.values(last_name_first=sa.bindparam("turned"))
    rows = connection.execute(page).all()
    while rows:
        found = [(row, searched({"name": row.name, "number": row.number})[3]) for row in rows]
        if changes := [{"t": row.tenant, "i": row.id, "turned": turned} for row, turned in found if turned is not None]:
            connection.execute(change, changes)
        last = sa.tuple_(*(sa.literal(value, sa.Text()) for value in rows[-1][:2]))
        rows = connection.execute(page.where(sa.tuple_(column.tenant, column.id) > last)).all()


def downgrade() -> None:
    """Drop them."""
    op.drop_index("contact_by_last_name", table_name="contact")
    op.drop_column("contact", "last_name_first")
