"""Which values are personal, that blanking leaves none of them and takes nothing else, and what is shown of them."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.histories import HISTORY, History, Rows, folded, in_doubt, numbered, shown
from whatsms_events import redaction
from whatsms_events.contracts import schemas
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    Event,
    EventType,
    LogEntry,
    Message,
    Payload,
    Ticket,
    decode,
    encode,
)
from whatsms_events.domain.personal import (
    BYTES,
    COLUMNS,
    EXTRA,
    HIDDEN,
    PERSONAL,
    blanked,
    blanked_data,
    blanked_row,
    hidden,
    hidden_data,
    personal_values,
)
from whatsms_events.domain.resources import RESOURCES
from whatsms_events.domain.rows import Key, Row
from whatsms_events.storage.tables import log_metadata, projection_metadata

MARK = "mark-7f3a91"
UNKNOWN = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from([MARK, None, {"z": [MARK]}]), max_size=2)


def marked(payload: Payload, extra: dict[str, Any]) -> Payload:
    """Return the payload with a mark in each of its personal fields that has a value, and with unknown fields."""

    def change(told: Any) -> Any:
        fields: dict[str, Any] = {EXTRA: extra}
        for name in told.__struct_fields__:
            value = getattr(told, name)
            if isinstance(value, (Ticket, Message, Contact, Campaign)):
                fields[name] = change(value)
            elif name in PERSONAL.get(type(told).__name__.lower(), ()) and value:
                fields[name] = [{"name": MARK, "value": MARK}] if isinstance(value, list) else MARK
        return msgspec.structs.replace(told, **fields)

    changed: Payload = change(payload)
    return changed


def with_data(entry: LogEntry, data: bytes) -> LogEntry:
    """Return the entry with other data."""
    return msgspec.structs.replace(entry, event=msgspec.structs.replace(entry.event, data=data))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each plain value in the JSON of a payload, with its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, value


def is_personal(path: tuple[str, ...]) -> bool:
    """Tell by the place alone whether a value is personal."""
    return EXTRA in path or (len(path) > 1 and path[-1] in PERSONAL.get(path[-2], ()))


@given(HISTORY, UNKNOWN)
def test_no_personal_value_survives_and_nothing_else_is_changed(history: History, extra: dict[str, Any]) -> None:
    """In events of every type, with all that is nested: the mark is gone, absent is absent, the rest is as it was."""
    for entry in numbered(history):
        payload = marked(decode(entry.event), extra)
        event = with_data(entry, encode(payload)).event
        data = blanked_data(event)
        assert MARK.encode() not in data
        assert personal_values(blanked(payload)) == []
        before, after = dict(leaves(msgspec.json.decode(event.data))), dict(leaves(msgspec.json.decode(data)))
        assert {path: one for path, one in before.items() if not is_personal(path)} == {
            path: one for path, one in after.items() if not is_personal(path)
        }
        told = {path for path in before if is_personal(path) and EXTRA not in path}
        assert {path: one for path, one in after.items() if is_personal(path)} == dict.fromkeys(told)
        assert blanked_data(msgspec.structs.replace(event, data=data)) == data


def emptied(rows: Rows) -> Rows:
    """Return the rows without personal values; wordings that became the same are one, as old as the oldest."""
    found: Rows = {}
    for key, row in rows.items():
        new, without = blanked_row(key, row)
        held = found.get(new)
        if held is not None:
            first = min(int(held.values["first_at"] or 0), int(without.values["first_at"] or 0))
            without = Row(known=True, values={**without.values, "first_at": first}, versions=without.versions)
        found[new] = without
    return found


@given(HISTORY)
def test_blanked_events_give_the_rows_that_blanking_gives(history: History) -> None:
    """So tables that are rebuilt from a blanked log are those that were blanked in place, and nothing is in doubt."""
    entries = numbered(history)
    rows = emptied(folded(entries))
    again = folded(with_data(one, blanked_data(one.event)) for one in entries)
    first, second = (
        {place: one for place, one in shown(each).items() if "media_url" not in place[1]} for each in (rows, again)
    )
    assert first == second
    personal = {(table, name) for table, names in COLUMNS.items() for name in names}
    assert not {(key.table, name) for key, name in in_doubt(again)} & personal


@given(HISTORY, UNKNOWN)
def test_what_is_hidden_shows_no_value_and_keeps_the_shape(history: History, extra: dict[str, Any]) -> None:
    """Data with "hidden" in it is still data of the same type; what is null stays null, and absent stays absent."""
    for entry in numbered(history):
        event: Event = with_data(entry, encode(marked(decode(entry.event), extra))).event
        data = hidden_data(event.type, event.data)
        assert MARK.encode() not in data
        decode(msgspec.structs.replace(event, data=data))
        plain = {path for path, _ in leaves(msgspec.json.decode(event.data)) if EXTRA not in path}
        assert plain == {path for path, _ in leaves(msgspec.json.decode(data)) if EXTRA not in path}


def test_a_row_is_hidden_by_its_tables_fields() -> None:
    """Texts, names and numbers become "hidden", also in the revisions of a message; ids, words and null stay."""
    contact = {"id": "c1", "name": "Ana", "number": None, "is_group": False, "extra_info": [{"name": "x"}]}
    assert hidden("contact", contact) == contact | {"name": HIDDEN, "extra_info": [HIDDEN]}
    revision = {"number": 1, "body": "Olá", "media_url": None, "deleted": False}
    message = {"id": "m1", "body": "Olá", "media_url": "https://x", "revisions": [revision]}
    assert hidden("message", message) == {
        "id": "m1",
        "body": HIDDEN,
        "media_url": HIDDEN,
        "revisions": [revision | {"body": HIDDEN}],
    }
    assert hidden("message_revision", {"content": "{}", "digest": "d"}) == {"content": HIDDEN, "digest": "d"}
    assert hidden("campaign", {"name": "Natal", "message": "Olá"}) == {"name": "Natal", "message": HIDDEN}


def test_the_text_of_a_campaign_is_hidden_and_never_blanked() -> None:
    """It is a text, so `personal` is needed to read it; but it is about nobody, so no erasure takes it away."""
    told = CampaignPayload(campaign=Campaign(id="k", name="Natal", message="Olá {{name}}"))
    shown = msgspec.json.decode(hidden_data(EventType.CAMPAIGN_FINISHED, encode(told)))
    assert shown == {"campaign": {"id": "k", "name": "Natal", "message": HIDDEN}}
    assert blanked(told) == told
    assert "message" not in COLUMNS["campaign"]


def test_every_stored_place_is_named() -> None:
    """Each column that is said to be personal exists, and the resources' own tables say which fields are."""
    for rows, names in COLUMNS.items():
        assert names <= {one.name for one in projection_metadata.tables[rows].c}
    assert COLUMNS["ticket"] == {"last_message"}
    assert COLUMNS["contact"] == {one.name for one in RESOURCES["contact"] if one.personal}
    for name, columns in BYTES.items():
        table = {**log_metadata.tables, **projection_metadata.tables}[name]
        assert columns <= {one.name for one in table.c}


def test_no_log_line_may_show_a_personal_field() -> None:
    """What a log line shows by its key is never a field that is personal, nor unknown fields of the vendor."""
    assert not redaction.KEYS & {name for names in PERSONAL.values() for name in names}


@pytest.mark.parametrize("name", ["Contact", "Ticket", "Message", "MessagePayload"])
def test_the_contracts_mark_personal_fields(name: str) -> None:
    """A consumer finds `x-personal` at each of them, at unknown fields too."""
    assert EXTRA in schemas.PERSONAL[name]
    assert schemas.PERSONAL[name] - {EXTRA} == PERSONAL.get(name.lower(), frozenset())


def test_a_revision_without_its_wording_has_the_key_of_one() -> None:
    """What is left of a wording is that there was one: its key is no longer a hash of the text."""
    key = Key("message_revision", "t", "m", "0" * 32)
    row = Row(
        known=True, values={"content": '{"body":"Olá","deleted":false}', "media_url": "u", "first_at": 1}, versions={}
    )
    new, without = blanked_row(key, row)
    assert without.values == {"content": '{"body":null,"deleted":false}', "media_url": None, "first_at": 1}
    assert new.digest not in ("0" * 32, "")
