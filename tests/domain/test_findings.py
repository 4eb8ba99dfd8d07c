"""What a replay found, and what of it is shown."""

from whatsms_events.domain.findings import changed_fields, findings, shown
from whatsms_events.domain.resources import RESOURCES
from whatsms_events.domain.rows import COLUMNS, Claim, Key, Row, merge

KEY = Key("contact", "t", "c")


def row(**values: str | int | None) -> Row:
    """Return a contact that was told these values."""
    return merge(None, Claim(KEY, 5, 1, values, known=True), 7)


def test_no_personal_field_and_no_text_is_shown_unless_asked_for() -> None:
    """Not one field that is personal by its table, no name of an agent or a campaign, and no text of either."""
    for entity, fields in RESOURCES.items():
        for one in fields:
            assert not (one.personal and shown(entity, one.name, personal=False)), (entity, one.name)
    hidden = {
        "ticket": {"user_name", "queue_name", "user_named", "queue_named", "last_message", "versions"},
        "message": {"body", "media_url", "versions"},
        "message_revision": {"content", "media_url", "versions"},
        "contact": {"name", "number", "email", "profile_pic_url", "extra_info", "versions"},
        "campaign": {"name", "message", "versions"},
        "parked_event": {"raw", "headers", "detail"},
    }
    for table, names in hidden.items():
        assert not [name for name in names if shown(table, name, personal=False)]
        assert all(shown(table, name, personal=True) for name in names)
    assert shown("ticket", "status", personal=False)
    assert shown("message", "ack", personal=False)
    assert set(hidden) - {"parked_event"} == set(COLUMNS)


def test_rows_that_were_changed_back_are_no_finding() -> None:
    """Counts are those of what differs at the end: a new row, a changed one with its fields, and nothing of one that is
    as it was; examples are cut, and values are there only where they may be shown.
    """
    before, after = row(name="Ana", is_group=False), row(name="Zoë", is_group=True)
    assert changed_fields(before, after) == {"name": ("Ana", "Zoë"), "is_group": (False, True)}
    changes = {
        KEY: (before, after),
        Key("contact", "t", "d"): (before, before),
        Key("contact", "t", "e"): (None, after),
        Key("contact", "t", "f"): (before, after),
    }
    (found,) = findings({"contact": 9}, changes, examples=1, personal=False)
    assert (found.rows, found.new, found.lost, found.changed) == (9, 1, 0, 2)
    assert found.fields == {"is_group": 2, "name": 2}
    changed, new = found.examples
    assert (changed.key, changed.fields) == (("t", "c"), {"name": None, "is_group": (False, True)})
    assert (new.kind, new.key, new.fields) == ("new", ("t", "e"), {})
    assert found.differs
