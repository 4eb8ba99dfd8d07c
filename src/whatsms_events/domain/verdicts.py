"""How a batch of deliveries is judged: which secret signed each of them, and which event it is or why it is parked.

Deliveries are judged many at a time, in one loop. Where each one is judged alone, between a parser and a socket, the
same work takes several times as long, because nothing of it is in the processor's caches any more. All here are structs
of msgspec, which are made in a tenth of the time of a frozen dataclass.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from msgspec import Struct

from whatsms_events.domain.events import Event
from whatsms_events.domain.normalize import identify, normalize
from whatsms_events.domain.signature import signed_by
from whatsms_events.errors import InvalidEventError, SignatureError


class Delivery(Struct, frozen=True):
    """A body as it came over the wire, for the tenant at whose door it came. Nothing of it is verified yet.

    `digest` is what the signature header gives, `encoding` the Content-Encoding where the body has one.
    """

    slug: str
    tenant: str
    secrets: Mapping[str, bytes]
    digest: bytes
    body: bytes
    encoding: str | None
    received_at: datetime


class Append(Struct, frozen=True):
    """An event for the log, with the bytes it came as and their SHA-256.

    `signed_by` is the name of the secret that verified it; None for what came over no signed door. `blanked`: the bytes
    are not kept, since they tell of somebody who was forgotten. `tied` has each contact that this event shows with the
    number of such a person, by its id, with the moment of the forgetting: the number itself is blanked.
    """

    event: Event
    raw: bytes
    sha256: bytes
    signed_by: str | None = None
    blanked: bool = False
    tied: Mapping[str, int] = MappingProxyType({})


class Park(Struct, frozen=True):
    """A delivery that cannot become an event, kept with its bytes. `id` is made from them as an event's id is.

    `signed_by` is the name of the secret that verified it.
    """

    id: UUID
    tenant: str
    reason: str
    detail: str
    received_at: datetime
    raw: bytes
    sha256: bytes
    content_encoding: str | None
    signed_by: str | None = None


class Verified(Struct, frozen=True):
    """A delivery whose signature is right: the name of the secret that fitted, and what is to be committed."""

    secret: str
    item: Append | Park


def judge(deliveries: Sequence[Delivery]) -> list[Verified | Exception]:
    """Return the verdict on each delivery: SignatureError where no secret fits.

    Any other exception is a mistake of ours in judging that one delivery. It is a verdict too, so that it stops no
    other delivery of the batch.
    """
    return [_verdict(delivery) for delivery in deliveries]


def _verdict(delivery: Delivery) -> Verified | Exception:
    # A function of its own: an exception that the frame it was raised in also keeps would keep the bodies with it.
    try:
        return _judged(delivery)
    except Exception as exc:  # noqa: BLE001 - the web package reports it and answers 500
        return exc


def _judged(delivery: Delivery) -> Verified | SignatureError:
    body, tenant, received_at = delivery.body, delivery.tenant, delivery.received_at
    secret = signed_by(body, delivery.digest, delivery.secrets)
    if secret is None:
        return SignatureError("wrong")
    sha256 = hashlib.sha256(body).digest()
    try:
        if delivery.encoding is not None:
            raise InvalidEventError("encoding", "Content-Encoding")
        return Verified(secret, Append(normalize(body, tenant=tenant, received_at=received_at), body, sha256, secret))
    except InvalidEventError as exc:
        parked_id = identify(body, tenant=tenant)
        park = Park(parked_id, tenant, exc.reason, exc.detail, received_at, body, sha256, delivery.encoding, secret)
        return Verified(secret, park)
