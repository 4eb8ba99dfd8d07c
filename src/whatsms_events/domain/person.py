"""Who a person is in the data, and whether an event, a row or some bytes are about them, or only name them.

The vendor knows a person as a contact: by its id, and by its number. A number may belong to several ids, since the
vendor merges contacts, so a `Person` has all of them. What is theirs: their contact, the tickets of that contact with
every message in them (also what was written to them), and what they wrote elsewhere, which is in groups. What is
somebody else's may still name them: a nested snapshot, the author of a quoted message, a field that nobody knows. Only
a look into the JSON finds that. A name is never enough, since two people may be called the same, and what somebody else
wrote about them stays somebody else's.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from whatsms_events.domain.marks import NUMBER_DIGITS, MarkKind, number_name
from whatsms_events.domain.named import ID_NAMES, leaves, named_in, named_in_bytes


@dataclass(frozen=True, slots=True)
class Person:
    """A person of one tenant (its id): ids and numbers of their contacts, and the ids of these contacts' tickets.

    `known`: the projection has a contact of theirs. Else whoever asked named nobody, or somebody who is only in the
    log.
    """

    tenant: str
    contacts: frozenset[str]
    numbers: frozenset[str] = frozenset()
    tickets: frozenset[str] = frozenset()
    known: bool = True

    def owns(self, *, ticket_id: str | None, contact_id: str | None) -> bool:
        """Tell whether what has these ids is theirs: it is about their contact, or stands in a ticket of theirs."""
        return contact_id in self.contacts or ticket_id in self.tickets

    def needles(self) -> list[str]:
        """Return texts of which one is in every event's data that names a contact or a number of theirs."""
        found = [form for one in sorted(self.contacts | self.numbers) for form in _forms(one)]
        digits = (digits_of(one) for one in sorted(self.numbers))
        return list(dict.fromkeys((*found, *(one for one in digits if len(one) >= NUMBER_DIGITS))))

    def is_named_in(self, value: Any) -> bool:
        """Tell whether a JSON value names one of their contacts, numbers or tickets: see `named`."""
        return named_in(value, self._find) is not None

    def is_named_in_bytes(self, raw: bytes) -> bool:
        """Tell whether a delivery's bytes name them: as JSON where they are, else as text, for what was cut."""
        return named_in_bytes(raw, self._find) is not None

    def _find(self, kind: MarkKind, value: str) -> int | None:
        ids = {"contact": self.contacts, "ticket": self.tickets}.get(kind, frozenset())
        mine = any(value == (number_name(one) or one) for one in self.numbers) if kind == "number" else value in ids
        return 0 if mine else None


def message_ids(value: Any) -> list[str]:
    """Return the ids of messages that a JSON value names, each once."""
    return list(dict.fromkeys(one for key, one in leaves(value) if key in ID_NAMES["message"] and len(one) <= ID_CHARS))


ID_CHARS: Final = 256
"""No id is longer (`values.shorten`): a text of a message that stands under such a name is none."""


def digits_of(number: str) -> str:
    """Return a number's digits: it may be written with signs."""
    return "".join(one for one in number if one in "0123456789")


def _forms(one: str) -> list[str]:
    """Return how an id may stand in JSON as we write it: as a text or an integer, also in JSON within a text."""
    written = msgspec.json.encode(one).decode()
    within = msgspec.json.encode(written).decode()[1:-1]
    numeric = [f"{start}{one}{end}" for start in _STARTS for end in ",}]"] if one.isascii() and one.isdigit() else []
    return [written, within, *numeric]


_STARTS: Final = (":", ": ", "[", ",", ", ")
"""What stands before an integer in JSON."""
