"""What an account at WhatSMS holds. Entities are mutable on purpose: the vendor's present state, not values."""

from dataclasses import dataclass, field
from datetime import datetime

Id = str | int
"""A UUID as text, or a number in the dialect with integer ids."""


@dataclass(slots=True)
class Contact:
    """A person or group."""

    id: Id
    name: str | None
    number: str
    email: str | None
    created_at: datetime
    updated_at: datetime
    is_group: bool = False
    profile_pic_url: str | None = None
    extra_info: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Named:
    """An agent, a queue or an AI agent."""

    id: Id
    name: str


@dataclass(slots=True)
class Ticket:
    """A conversation with a contact."""

    id: Id
    contact: Contact
    channel: str
    created_at: datetime
    updated_at: datetime
    status: str = "pending"
    user: Named | None = None
    queue: Named | None = None
    ai_agent_id: Id | None = None
    last_message: str = ""
    messages: list["Message"] = field(default_factory=list)


@dataclass(slots=True)
class Message:
    """A message; `ticket` is None for those of a campaign."""

    id: Id
    contact: Contact
    ticket: Ticket | None
    body: str
    from_me: bool
    ack: int
    created_at: datetime
    media_type: str | None = None
    media_url: str | None = None
    quoted: Id | None = None
    deleted: bool = False


@dataclass(slots=True)
class Campaign:
    """A mass sending."""

    id: Id
    name: str
    message: str
    scheduled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    status: str = "pending"
    sent_count: int = 0
    failed_count: int = 0
    messages: list[Message] = field(default_factory=list)
