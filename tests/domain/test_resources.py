"""The tables of fields, and that everything that knows of fields agrees with them.

A field that is added to a table fails here until it has a type in `events` and a column in `storage/tables`; all other
tests in this file say that nothing else is needed.
"""

from typing import Any, get_type_hints

import pytest
from msgspec import UNSET
from sqlalchemy import BigInteger, Boolean, SmallInteger, Text

from domain.histories import at, entry, folded
from whatsms_events.domain import events, fields, values
from whatsms_events.domain.drift import Finding, Sighting, compare
from whatsms_events.domain.events import SHAPES, Contact, Entity, EventType, Ref
from whatsms_events.domain.resources import ACK_COLUMNS, RESOURCES, Field, columns
from whatsms_events.domain.rows import Key, Row
from whatsms_events.storage.tables import FOUND_BY, projection_metadata
from whatsms_events.twin.shapes import Shape

STRUCTS: dict[Entity, Any] = {
    "ticket": events.Ticket,
    "message": events.Message,
    "contact": events.Contact,
    "campaign": events.Campaign,
}
READ: dict[Entity, Any] = {
    "ticket": fields.read_ticket,
    "message": fields.read_message,
    "contact": fields.read_contact,
    "campaign": fields.read_campaign,
}
EVERY = [(entity, one) for entity, table in RESOURCES.items() for one in table]
SHOWN = [(entity, one) for entity, one in EVERY if one.vendor not in (None, "id")]

SENT: dict[object, tuple[object, object]] = {
    values.text: ("a text that is long enough for a preview", "b, which has nothing of the other text in it"),
    values.word: ("a", "b"),
    values.number: ("351911", "351922"),
    values.identifier: ("i1", "i2"),
    values.flag: (True, False),
    values.count: (1, 2),
    values.ack: (3, 4),
    values.moment: ("2026-05-01T10:00:00.000Z", "2026-05-01T10:05:00.000Z"),
    values.items: ([{"name": "a", "value": "b"}], [{"name": "a", "value": "c"}]),
    values.nested: ({"id": "i1", "name": "a"}, {"id": "i2"}),
    None: ({"id": "u1", "name": "Ana"}, {"id": "u2", "name": "Rui"}),
}
"""What the vendor may send of a field, by its reader, and another value of it."""

HINTS: dict[object, object] = {
    values.flag: events.Flag,
    values.count: events.Number,
    values.ack: events.Number,
    values.moment: events.Time,
    values.items: list[Any] | None | type(UNSET),
    values.nested: Contact | None | type(UNSET),
}
COLUMN_TYPES: dict[object, type] = {values.flag: Boolean, values.count: BigInteger, values.moment: BigInteger}


def ident(value: object) -> str:
    """Return the name of a test: the entity or the field."""
    return value.name if isinstance(value, Field) else str(value)


def sent(entity: Entity, other: Field | None = None) -> dict[str, object]:
    """Return the vendor's object with every field, one of them with its other value."""
    shown = {str(one.vendor): SENT[one.read][one is other] for one in RESOURCES[entity] if one.vendor is not None}
    return (
        shown
        | {"id": "x1"}
        | ({"fromMe": True} if entity == "message" and (not other or other.name != "from_me") else {})
    )


def row_of(entity: Entity, source: dict[str, object]) -> Row:
    """Return the row that an observation of the vendor's object leaves."""
    payload = SHAPES[entity](**{entity: READ[entity](source, {})})
    rows = folded([entry(1, EventType(f"{entity}.observed"), payload)])
    return rows[Key(entity, "t1", "x1")]


@pytest.mark.parametrize("entity", RESOURCES)
def test_a_struct_has_just_the_fields_of_its_table(entity: Entity) -> None:
    """Each with the type that its reader returns, and under a name of the vendor's that no other field has."""
    hints = get_type_hints(STRUCTS[entity], include_extras=True)
    assert {one.name for one in RESOURCES[entity]} | {"extra"} == set(STRUCTS[entity].__struct_fields__)
    for one in RESOURCES[entity]:
        ours = events.Flag if one.name == "gone" else events.Text
        reference = Ref | None | type(UNSET) if one.stored == "reference" else ours
        assert hints[one.name] == HINTS.get(one.read, reference), one.name
    vendor = [one.vendor for one in RESOURCES[entity] if one.vendor is not None]
    assert len(set(vendor)) == len(vendor)


@pytest.mark.parametrize("entity", RESOURCES)
def test_every_field_that_the_vendor_sends_is_read(entity: Entity) -> None:
    """No field of the table is left unread, and none lands among the unknown ones."""
    found = READ[entity](sent(entity), {})
    assert found.extra == {}
    for one in RESOURCES[entity]:
        assert (getattr(found, one.name) is UNSET) == (one.vendor is None), one.name


@pytest.mark.parametrize("entity", RESOURCES)
def test_a_table_of_the_projection_has_just_the_columns_of_its_fields(entity: Entity) -> None:
    """Each column has the type of what the reader returns; a list is JSON."""
    table = projection_metadata.tables[entity]
    frame = {"tenant", "id", "known", "doubtful", "versions", *(FOUND_BY if entity == "contact" else ())}
    assert {column.name for column in table.c} == frame | columns(entity)
    for one in RESOURCES[entity]:
        if one.stored in ("value", "json", "by_rule"):
            ours = Boolean if one.name == "gone" else Text
            assert type(table.c[one.name].type) is COLUMN_TYPES.get(one.read, ours), one.name
        if one.stored == "ack":
            assert {type(table.c[name].type) for name in ACK_COLUMNS} == {SmallInteger, BigInteger}


@pytest.mark.parametrize("entity", RESOURCES)
def test_the_fold_writes_every_field_that_is_shown(entity: Entity) -> None:
    """The columns of all fields hold something once an event showed them all; only an ack has one level at a time."""
    row = row_of(entity, sent(entity))
    assert row.values.keys() == columns(entity)
    empty = {name for name, value in row.values.items() if value is None}
    assert empty - {*ACK_COLUMNS} == {"gone"}


@pytest.mark.parametrize(("entity", "one"), SHOWN, ids=ident)
def test_a_field_that_differs_is_found_where_it_is_compared(entity: Entity, one: Field) -> None:
    """A finding names the field, unless the table says that the field is not compared. A message's place is compared
    only where none is held.
    """
    row = row_of(entity, sent(entity))
    payload = SHAPES[entity](**{entity: READ[entity](sent(entity, one), {})})
    verdict = compare("t1", Sighting(entity, "x1", payload, at(60), 1), row)
    if one.compared in (None, "place"):
        assert verdict == "same"
    else:
        assert isinstance(verdict, Finding)
        assert verdict.fields == (one.name,)


def test_texts_about_a_contact_are_personal() -> None:
    """A free text of a contact, of a message or of a ticket names or quotes somebody."""
    free = [one for entity, one in EVERY if one.read is values.text and entity != "campaign"]
    assert all(one.personal for one in free)
    assert {one.name for one in RESOURCES["contact"] if one.personal} >= {"name", "number", "email"}


def test_the_twin_shows_fields_under_the_names_of_the_tables() -> None:
    """What its REST API shows are fields of the tables, so that no name is misspelt on one side."""
    for shape in Shape:
        (entity,) = [name for name in RESOURCES if shape.name.lower().split("_")[0] == name]
        assert {*shape.value} <= {one.vendor for one in RESOURCES[entity]}, shape.name


def test_no_register_belongs_to_two_fields() -> None:
    """Each column is written for one field."""
    for entity, table in RESOURCES.items():
        stored = [one.name for one in table if one.stored is not None]
        assert len(set(stored)) == len(stored), entity
