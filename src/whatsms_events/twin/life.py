"""What people do at the twin's account: scripts that do one thing and yield the seconds until they go on."""

import base64
import random
from collections import deque
from collections.abc import Callable, Iterator

from whatsms_events.twin import texts
from whatsms_events.twin.account import Account
from whatsms_events.twin.entities import Campaign, Contact, Message, Ticket

Script = Iterator[float]

_FAILED = 0.02
_PEOPLE_KEPT_IN_MIND = 300
_ASKED_SIZE = 20
"""Contacts that a campaign of the API goes to: the twin has no groups of contacts."""
_LONGEST_WAIT_S = 366 * 86400.0


class Life:
    """All scripts; `begin(script, after_s)` starts one, and is how they start each other."""

    def __init__(self, rng: random.Random, account: Account, begin: Callable[[Script, float], None]) -> None:
        self._rng = rng
        self._account = account
        self._begin = begin
        self._known: deque[Contact] = deque(maxlen=_PEOPLE_KEPT_IN_MIND)

    def doorbell(self) -> Script:
        """Let contacts write: new ones, and known ones again."""
        for _ in range(3):
            self._begin(self._conversation(self._newcomer()), 0.0)
        while True:
            yield self._wait(14)
            returning = self._known and self._chance(0.5)
            self._begin(self._conversation(self._rng.choice(self._known) if returning else self._newcomer()), 0.0)

    def campaigns(self) -> Script:
        """Run a small campaign soon, so that every demonstration shows one; then one every few minutes."""
        yield 15
        self._begin(self._campaign(5), 0.0)
        while True:
            yield self._rng.uniform(400, 900)
            self._begin(self._campaign(self._rng.randint(20, 60)), 0.0)

    def go_on(self, asked: Message | Campaign) -> None:
        """Go on with what came through the API: a message gets its acks, a campaign is sent when its time has come."""
        if isinstance(asked, Message):
            self._begin(self._acks(asked), self._wait(0.5))
            return
        until = asked.scheduled_at or self._account.now
        wait_s = min(max((until - self._account.now).total_seconds(), 0.0), _LONGEST_WAIT_S)
        self._begin(self._sent_out(asked, _ASKED_SIZE), wait_s / self._account.unit_s)

    def _campaign(self, size: int) -> Script:
        name, text = self._rng.choice(texts.CAMPAIGNS)
        yield from self._sent_out(self._account.add_campaign(name, text), size)

    def _sent_out(self, campaign: Campaign, size: int) -> Script:
        """Send a burst of messages outside any ticket; some contacts answer."""
        yield self._wait(2)
        campaign.status = "running"
        for contact in self._rng.sample(self._known, min(size, len(self._known))):
            if contact.id in self._account.removed:
                continue
            if self._chance(_FAILED):
                campaign.failed_count += 1
                continue
            text = campaign.message.replace("{{name}}", contact.name or "").replace("{{number}}", contact.number)
            campaign.messages.append(self._send(contact, None, text))
            campaign.sent_count += 1
            if self._chance(0.1):
                self._begin(self._conversation(contact), self._wait(30))
            yield self._rng.uniform(0.05, 0.4)
        self._account.finish_campaign(campaign)
        if self._chance(0.1):
            yield self._wait(60)
            self._account.finish_campaign(campaign)

    def _newcomer(self) -> Contact:
        name = f"{self._rng.choice(texts.FIRST_NAMES)} {self._rng.choice(texts.SURNAMES)}"
        number = f"3519{self._rng.choice('1236')}{self._rng.randrange(10**7):07d}"
        contact_name: str | None = name
        group = False
        match self._rng.randrange(40):
            case 0:
                contact_name = self._rng.choice(texts.ODD_NAMES)
            case 1:
                contact_name = number  # WhatsApp told no name
            case 2:
                number = f"{self._rng.randrange(10**14, 10**15)}"  # a LID: no phone number at all
            case 3:
                contact_name, group = f"Grupo {name} 👪", True
                number = f"{number}-{self._rng.randrange(10**9, 10**10)}"
        email = f"cliente{self._rng.randrange(10**6)}@exemplo.pt" if self._chance(0.4) else None
        contact = self._account.add_contact(name=contact_name, number=number, email=email, is_group=group)
        self._known.append(contact)
        return contact

    def _conversation(self, contact: Contact) -> Script:
        """Lead a ticket from pending to open to closed, with some exchanges; a closed one may come back."""
        if contact.id in self._account.removed:
            return
        ticket = self._ticket_for(contact)
        first = self._receive(ticket)
        yield self._wait(4)
        ticket.queue = self._rng.choice(self._account.queues)
        ticket.user = self._rng.choice(self._account.users)
        ticket.ai_agent_id = self._rng.choice(self._account.ai_agents).id if self._chance(0.1) else None
        ticket.status = "open"
        self._account.touch_ticket(ticket)
        self._reply(ticket, quoted=first)
        for _ in range(self._rng.randint(1, 4)):
            yield self._wait(8)
            self._receive(ticket)
            yield self._wait(5)
            self._reply(ticket)
            if self._chance(0.4):
                yield self._wait(2)
                self._reply(ticket)
        yield self._wait(10)
        if self._chance(0.3):
            self._send(contact, ticket, texts.CLOSING)  # before the status changes, as the relatives do
        ticket.status = "closed"
        self._account.touch_ticket(ticket)
        if self._chance(0.12):
            self._begin(self._conversation(contact), self._wait(20))

    def _ticket_for(self, contact: Contact) -> Ticket:
        """Return the contact's last ticket, re-opened; or a new one, seldom beside one that is still open."""
        tickets = self._account.tickets_of.get(contact.id) or []
        if not tickets or self._chance(0.5 if tickets[-1].status == "closed" else 0.03):
            return self._account.open_ticket(contact, self._rng.choice(texts.CHANNELS))
        ticket = tickets[-1]
        if ticket.status == "closed":
            if self._chance(0.3):
                self._receive(ticket)  # the webhook still shows the ticket as closed (launcherbr does so)
            ticket.status, ticket.user, ticket.queue = "pending", None, None
            self._account.touch_ticket(ticket)
        return ticket

    def _receive(self, ticket: Ticket) -> Message:
        contact = ticket.contact
        if self._chance(0.3):
            self._begin(self._renewed(contact), 0.1)
        match self._rng.randrange(300):
            case 0:
                message = self._add(contact, ticket, self._location(), media=("location", None))
            case 1 | 2 | 3:
                message = self._add(contact, ticket, texts.long_text(self._rng.randrange(2)))
            case n if n < 28:
                kind, name = self._rng.choice(texts.MEDIA)
                message = self._add(contact, ticket, name, media=(kind, name))
            case _:
                message = self._add(contact, ticket, self._rng.choice(texts.RECEIVED))
        if self._chance(0.03):
            self._begin(self._second_thoughts(message), self._wait(6))
        if self._chance(0.85):
            self._begin(self._seen(message), self._wait(3))
        return message

    def _add(self, contact: Contact, ticket: Ticket, body: str, media: tuple[str, str | None] | None = None) -> Message:
        return self._account.add_message(contact, ticket, body, from_me=False, media=media)

    def _location(self) -> str:
        thumbnail = base64.b64encode(self._rng.randbytes(9000)).decode("ascii")
        return f"data:image/png;base64, {thumbnail}|https://maps.google.com/maps?q=41.1496%2C-8.6110&z=17|Porto"

    def _renewed(self, contact: Contact) -> Script:
        """Save the contact again, mostly without any change."""
        match self._rng.randrange(8):
            case 0:
                contact.email = f"novo{self._rng.randrange(10**6)}@exemplo.pt"
            case 1:
                contact.extra_info = [{"name": "NIF", "value": f"{self._rng.randrange(10**9):09d}"}]
            case 2:
                contact.name = f"{self._rng.choice(texts.FIRST_NAMES)} {self._rng.choice(texts.SURNAMES)}"
        self._account.touch_contact(contact)
        yield from ()

    def _second_thoughts(self, message: Message) -> Script:
        """Edit the message, or delete it, which leaves the body: the same id comes a second time."""
        if self._chance(0.2):
            message.deleted = True
        else:
            message.body += " (corrigido ✏️)"
        self._account.announce_message(message)
        yield from ()

    def _seen(self, message: Message) -> Script:
        """Let an agent read a received message on the phone: the ack is about somebody else's message."""
        self._account.acknowledge(message, 4)
        yield from ()

    def _reply(self, ticket: Ticket, quoted: Message | None = None) -> None:
        media = None
        body = self._rng.choice(texts.SENT)
        if self._chance(0.06):
            media = self._rng.choice(texts.MEDIA)
        self._send(ticket.contact, ticket, body, media=media, quoted=quoted if self._chance(0.2) else None)

    def _send(
        self,
        contact: Contact,
        ticket: Ticket | None,
        body: str,
        media: tuple[str, str] | None = None,
        quoted: Message | None = None,
    ) -> Message:
        message = self._account.add_message(
            contact, ticket, body, from_me=True, media=media, quoted=quoted.id if quoted else None
        )
        self._begin(self._acks(message), self._wait(0.5))
        return message

    def _acks(self, message: Message) -> Script:
        """Acknowledge: sent, delivered, read, maybe played; or failed; doubled, swapped, or cut short."""
        acknowledge = self._account.acknowledge
        if self._chance(_FAILED):
            acknowledge(message, 0)
            if self._chance(0.7):
                return
            yield self._wait(5)
        acknowledge(message, 2)
        if message.ticket is not None and message.ticket.channel != "whatsapp":
            return  # Telegram and SMS tell no more
        if self._chance(0.02):
            self._account.announce_message(message)  # the echo of what was sent
        yield self._wait(1.5)
        swapped = self._chance(0.02)
        acknowledge(message, 4 if swapped else 3)
        if self._chance(0.35):
            yield self._wait(3)
            acknowledge(message, None if self._chance(0.02) else 3)
        if self._chance(0.15):
            return  # read receipts are off
        yield self._wait(10)
        acknowledge(message, 3 if swapped else 4)
        if message.media_type in texts.PLAYED:
            yield self._wait(6)
            acknowledge(message, 5)

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _wait(self, mean_s: float) -> float:
        # Never at once, and never for ever.
        return min(0.2 + self._rng.expovariate(1 / mean_s), 10 * mean_s)
