"""Which fields tickets, messages, contacts and campaigns have: one table each, with all that is known of a field.

The readers of the vendor's JSON, the fold, the rows of the projection, the comparison with the REST API and the demo
take their fields from these tables. The read API shows every column. The twin has names of its own (`twin/shapes`),
which a test compares with these. A new field is one row here, its type in the struct of `events`, the same in the fast
reader `documented`, a column in `storage/tables` and a migration. `tests/domain/test_resources.py` holds all of them
together.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from whatsms_events.domain import values
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.events import Entity
from whatsms_events.domain.values import Reader

Stored: TypeAlias = Literal["value", "json", "reference", "by_rule", "ack"]
"""How the projection holds a field.

"value": one register in one column of the field's name. "json": the same, written as JSON. "reference": an agent or a
queue, which has an id and a name; see `GROUPS`. "by_rule": one register in one column, but the fold has a rule for what
an event claims of it, since several fields may tell it. "ack": no register, but the columns of the ack lattice.
"""

Compared: TypeAlias = Literal["value", "time", "preview", "path", "pairs", "reference", "presence", "place", "ack"]
"""By which rule of `differences` the field is compared with what the REST API shows.

"value": equal or not. "time": one of the two may be cut to seconds. "preview": the start of a text. "path": a URL,
which is signed anew on each read. "pairs": a list of names and values. "reference": by id, and by name where one is
shown. "presence": whether the thing is there at all. "place": only where nothing is held. "ack": only where it is
higher.
"""


class Field(NamedTuple):
    """One field of a resource. Where `stored` or `compared` is None, the field is not stored or not compared.

    `vendor` is the vendor's name; None for what only a backfill says. `read` is None where `fields` has a rule of its
    own. `personal`: the field names, quotes or shows the contact. `quiet`: no webhook need tell when the field changes.
    `listed_only`: the lists of the REST API show the field, and its answers about one thing do not.
    """

    vendor: str | None
    name: str
    read: Reader | None
    stored: Stored | None = "value"
    compared: Compared | None = "value"
    personal: bool = False
    quiet: bool = False
    listed_only: bool = False


_ID: Final = Field("id", "id", values.identifier, stored=None, compared=None)
_GONE: Final = Field(None, "gone", None, compared="presence")
_MERGED: Final = Field(None, "merged_into", None, stored=None, compared=None)
_CREATED: Final = Field("createdAt", "created_at", values.moment, compared="time", quiet=True)
_UPDATED: Final = Field("updatedAt", "updated_at", values.moment, compared="time", quiet=True)

TICKET: Final = (
    _ID,
    _GONE,
    _MERGED,
    Field("status", "status", values.word),
    Field("channel", "channel", values.word),
    # Both tell whose the ticket is, and share the register `contact_id`.
    Field("contact", "contact", values.nested, stored=None, compared=None, personal=True),
    Field("contactId", "contact_id", values.identifier, stored="by_rule"),
    Field("user", "user", None, stored="reference", compared="reference"),
    Field("queue", "queue", None, stored="reference", compared="reference"),
    Field("aiAgentId", "ai_agent_id", values.identifier),
    Field("lastMessage", "last_message", values.text, compared="preview", personal=True, listed_only=True),
    _CREATED,
    _UPDATED,
)

MESSAGE: Final = (
    _ID,
    _GONE,
    # A list shows the messages of one ticket, but it may show those of another one too.
    Field("ticketId", "ticket_id", values.identifier, stored="by_rule", compared="place", quiet=True),
    Field("contactId", "contact_id", values.identifier, stored="by_rule", compared="place", quiet=True),
    Field("body", "body", values.text, personal=True),
    Field("fromMe", "from_me", values.flag),
    Field("mediaType", "media_type", values.word),
    Field("mediaUrl", "media_url", values.text, compared="path", personal=True, quiet=True),
    Field("isDeleted", "deleted", values.flag),
    Field("quotedMsgId", "quoted_message_id", values.identifier),
    Field("ack", "ack", values.ack, stored="ack", compared="ack"),
    _CREATED,
    _UPDATED,
)

CONTACT: Final = (
    _ID,
    _GONE,
    _MERGED,
    Field("name", "name", values.text, personal=True),
    Field("number", "number", values.number, personal=True),
    Field("email", "email", values.text, personal=True),
    Field("profilePicUrl", "profile_pic_url", values.text, compared="path", personal=True, listed_only=True),
    Field("isGroup", "is_group", values.flag, listed_only=True),
    Field("extraInfo", "extra_info", values.items, stored="json", compared="pairs", personal=True),
    _CREATED,
    _UPDATED,
)

CAMPAIGN: Final = (
    _ID,
    _GONE,
    Field("name", "name", values.text),
    Field("status", "status", values.word),
    Field("message", "message", values.text),
    Field("scheduledAt", "scheduled_at", values.moment, compared="time"),
    Field("sentCount", "sent_count", values.count),
    Field("failedCount", "failed_count", values.count),
    _CREATED,
    _UPDATED,
)

RESOURCES: Final[Mapping[Entity, tuple[Field, ...]]] = {
    "ticket": TICKET,
    "message": MESSAGE,
    "contact": CONTACT,
    "campaign": CAMPAIGN,
}

GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    one.name: (f"{one.name}_id", f"{one.name}_name")
    for fields in RESOURCES.values()
    for one in fields
    if one.stored == "reference"
}
"""The columns of id and name of each reference. A reference is two registers: who it is (`user`), and the last one that
was told with a name (`user_named`, JSON of id and name). `user_name` follows from both: it is that name if it was told
of the id that is held, else null."""

NAMED: Final[Mapping[str, str]] = {f"{group}_named": group for group in GROUPS}
"""The reference that each register of a name belongs to."""

ACK_COLUMNS: Final = (
    "ack",
    *(f"{level}_at" for level in LEVELS.values()),
    *(f"{level}_by" for level in LEVELS.values()),
    "failed_at",
)


def columns(entity: Entity) -> frozenset[str]:
    """Return the columns in which the projection holds the fields of a resource."""
    found: set[str] = set()
    for one in RESOURCES[entity]:
        match one.stored:
            case "reference":
                found.update((*GROUPS[one.name], f"{one.name}_named"))
            case "ack":
                found.update(ACK_COLUMNS)
            case None:
                pass
            case _:
                found.add(one.name)
    return frozenset(found)
