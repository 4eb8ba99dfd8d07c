"""What contacts are found by (folded name, digits of the number), tickets by age, and our messages by time."""

import sqlalchemy as sa
from alembic import op

from whatsms_events.domain.search import searched

revision = "0008_found_by"
down_revision = "0007_undelivered"
branch_labels = None
depends_on = None

_FOUND_BY = ("folded_name", "digits", "digits_backwards")
_INDEXES = {"contact_by_name": "folded_name", "contact_by_digits": "digits", "contact_by_ending": "digits_backwards"}
_PAGE = 1000

_contact = sa.table("contact", *map(sa.column, ("tenant", "id", "name", "number", *_FOUND_BY)))


def upgrade() -> None:
    """Add the columns, fill them, and make the indexes: each contact is written once, nothing else is."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for name in _FOUND_BY:
        op.add_column("contact", sa.Column(name, sa.Text(collation="C" if postgresql else None), nullable=True))
    _fill()
    for name, column in _INDEXES.items():
        op.create_index(name, "contact", ["tenant", column, "id"])
    op.create_index("ticket_by_age", "ticket", ["tenant", "status", "created_at", "id"])
    ours = sa.text("(from_me IS TRUE)")
    op.create_index("message_of_ours", "message", ["tenant", "created_at"], postgresql_where=ours, sqlite_where=ours)
    if postgresql:
        for table in ("ticket", "contact"):
            op.create_index(f"{table}_by_id", table, ["tenant", "id"], postgresql_ops={"id": "text_pattern_ops"})


def _fill() -> None:
    """Fold each contact's name and number, page by page."""
    connection, column = op.get_bind(), _contact.c
    page = sa.select(column.tenant, column.id, column.name, column.number).order_by(column.tenant, column.id)
    page = page.limit(_PAGE)
    change = sa.update(_contact).where(column.tenant == sa.bindparam("t"), column.id == sa.bindparam("i"))
    change = change.values({name: sa.bindparam(f"new_{name}") for name in _FOUND_BY})
    rows = connection.execute(page).all()
    while rows:
        found = [(row, searched({"name": row.name, "number": row.number})[: len(_FOUND_BY)]) for row in rows]
        connection.execute(
            change,
            [
                {"t": row.tenant, "i": row.id, **{f"new_{name}": one for name, one in zip(_FOUND_BY, by, strict=True)}}
                for row, by in found
            ],
        )
        last = sa.tuple_(*(sa.literal(value, sa.Text()) for value in rows[-1][:2]))
        rows = connection.execute(page.where(sa.tuple_(column.tenant, column.id) > last)).all()


def downgrade() -> None:
    """Drop them."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("ticket", "contact"):
            op.drop_index(f"{table}_by_id", table_name=table)
    op.drop_index("message_of_ours", table_name="message")
    op.drop_index("ticket_by_age", table_name="ticket")
    for name in _INDEXES:
        op.drop_index(name, table_name="contact")
    for name in _FOUND_BY:
        op.drop_column("contact", name)
