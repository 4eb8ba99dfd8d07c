"""Signed deliveries for the bench, all different but for one in a hundred that comes again, as raw HTTP requests.

60 % are acks, 25 % messages, 10 % tickets, 5 % contacts. Every second body has the documented shape; the others have
five unknown fields in each object, because real senders add fields.
"""

import itertools
import json
import random
import struct
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from whatsms_events.domain.signature import HEADER, sign

Json = dict[str, object]

REDELIVER_EVERY: Final = 100
REDELIVER_BACK: Final = 1000
"""One delivery in a hundred comes again, a thousand later."""

MIX: Final = {"ack": 60, "message": 25, "ticket": 10, "contact": 5}
TICKETS: Final = 5_000
"""How many tickets are talked about at a time; a new one takes the place of an old one with each `ticket.created`."""

EXTRA: Final[Json] = {
    "companyId": 41,
    "isArchived": False,
    "labels": ["vip", "pt"],
    "externalRef": "crm-000123456",
    "meta": None,
}
TEXTS: Final = (
    "Olá, preciso de ajuda com a minha encomenda",
    "Bom dia! Como posso ajudar?",
    "Obrigado 🙏",
    "A fatura de janeiro ainda não chegou, podem enviar outra vez?",
    "ok",
)


class Corpus:
    """Bodies in the order in which they are sent; the same seed and start give the same bodies."""

    def __init__(self, tenant_id: str, start: datetime, *, seed: int = 1) -> None:
        self._tenant_id = tenant_id
        self._start = start
        self._rng = random.Random(seed)  # noqa: S311 - the same bodies in each run
        self._made = 0
        self._tickets = [(self._id(), self._contact()) for _ in range(TICKETS)]
        self._acked: list[tuple[str, str, int]] = []  # message, its ticket, the next level

    def bodies(self) -> Iterator[bytes]:
        """Yield bodies for ever."""
        kept: list[bytes] = []
        while True:
            body = self._body()
            yield body
            kept.append(body)
            if len(kept) == REDELIVER_BACK:
                yield from kept[::REDELIVER_EVERY]
                kept.clear()

    def _body(self) -> bytes:
        self._made += 1
        make: dict[str, Callable[[], tuple[str, Json]]] = {
            "ack": self._ack,
            "message": self._message,
            "ticket": self._ticket,
            "contact": self._contact_event,
        }
        (kind,) = self._rng.choices(tuple(MIX), tuple(MIX.values()))
        event, data = make[kind]()
        envelope: Json = {"event": event, "tenantId": self._tenant_id, "timestamp": self._now(), "data": data}
        if self._made % 2:
            envelope = _extended(envelope)
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()

    def _now(self) -> str:
        """Return the time of the account, which goes on by a millisecond with every ten bodies."""
        at = self._start + timedelta(milliseconds=self._made // 10)
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _id(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))

    def _contact(self) -> Json:
        number = self._rng.randrange(10**8)
        return {"id": self._id(), "name": f"Pessoa {number % 1000}", "number": f"3519{number:08}"}

    def _ack(self) -> tuple[str, Json]:
        if not self._acked:
            return self._message()
        at = self._rng.randrange(len(self._acked))
        message, ticket, level = self._acked[at]
        if level < 4:
            self._acked[at] = (message, ticket, level + 1)
        else:
            self._acked[at] = self._acked[-1]
            self._acked.pop()
        return "message.ack", {"message": {"id": message, "ack": level, "fromMe": True}, "ticket": {"id": ticket}}

    def _message(self) -> tuple[str, Json]:
        ticket, contact = self._rng.choice(self._tickets)
        message: Json = {
            "id": self._id(),
            "body": self._rng.choice(TEXTS),
            "fromMe": self._rng.random() < 0.8,  # three acks each, so that acks are enough for the mix
            "mediaType": None,
            "createdAt": self._now(),
        }
        if message["fromMe"]:
            self._acked.append((str(message["id"]), ticket, 2))
        event = "message.sent" if message["fromMe"] else "message.received"
        return event, {"message": message, "ticket": {"id": ticket, "status": "open"}, "contact": contact}

    def _ticket(self) -> tuple[str, Json]:
        at = self._rng.randrange(TICKETS)
        created = self._rng.random() < 0.2
        if created:
            self._tickets[at] = (self._id(), self._contact())
        ticket_id, contact = self._tickets[at]
        ticket: Json = {
            "id": ticket_id,
            "status": "pending" if created else "open",
            "channel": "whatsapp",
            "contact": contact,
            "user": None if created else {"id": self._id(), "name": "Agente"},
            "queue": None if created else {"id": self._id(), "name": "Suporte"},
            "createdAt": self._now(),
        }
        if not created:
            ticket["updatedAt"] = self._now()
        return ("ticket.created" if created else "ticket.updated"), {"ticket": ticket}

    def _contact_event(self) -> tuple[str, Json]:
        contact = dict(self._rng.choice(self._tickets)[1])
        contact |= {"email": None, "extraInfo": [{"name": "NIF", "value": "123456789"}], "updatedAt": self._now()}
        return "contact.updated", {"contact": contact}


def _extended(value: Json) -> Json:
    """Return the object with five unknown fields in it and in each object of it."""
    return {name: _extended(one) if isinstance(one, dict) else one for name, one in value.items()} | EXTRA


def request(body: bytes, path: str, secret: bytes | None) -> bytes:
    """Return the request of a delivery; without a secret it has no signature."""
    signature = "" if secret is None else f"{HEADER}: {sign(body, secret)}\r\n"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{signature}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


class Requests:
    """A file of requests that grows: what `load` reads. `next` is the first one that was not sent yet."""

    def __init__(self, file: Path, bodies: Iterator[bytes], path: str, secret: bytes | None) -> None:
        self.file = file
        self.next = 0
        self.total = 0
        self._bodies = bodies
        self._path = path
        self._secret = secret

    def forget(self) -> None:
        """Make room on the disk: the requests in the file were sent."""
        self.file.write_bytes(b"")
        self.next = self.total = 0

    def have(self, count: int) -> None:
        """See that so many unsent requests are there."""
        missing = self.next + count - self.total
        if missing > 0:
            with self.file.open("ab") as file:
                for body in itertools.islice(self._bodies, missing):
                    made = request(body, self._path, self._secret)
                    file.write(struct.pack("<I", len(made)) + made)
            self.total += missing
