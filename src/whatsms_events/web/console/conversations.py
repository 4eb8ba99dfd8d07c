"""The page Conversations: whose is it, which tickets wait, what was said in one, and asking WhatSMS about it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from whatsms_events.domain.trace import FieldPlace, field_place
from whatsms_events.errors import NotFoundError
from whatsms_events.storage.conversations import AGES, COUNTED, TALK_LIMIT, Conversations, StatusAges, found_ids
from whatsms_events.storage.reads import PageKey, Queries
from whatsms_events.storage.trace import ThingFacts, Traces
from whatsms_events.web.console import places
from whatsms_events.web.console.bubbles import days, unexplained
from whatsms_events.web.console.frame import HEADERS, Brought, ConsoleTenant, Frame, Visit
from whatsms_events.web.questions import Int64, key_after
from whatsms_events.web.views import opaque

TICKETS: Final = 50
"""Tickets of one page."""

_BY_TIME: Final = msgspec.json.Decoder(tuple[Int64 | None, str])
_BY_AGE: Final = msgspec.json.Decoder(tuple[Int64, str])

AskRest = Callable[[str, str], Awaitable[str | None]]
"""Ask WhatSMS about one ticket of a tenant, by slug and id; returns why it cannot be asked, None where it will be."""


class ConversationsPage:
    """Three views: what was looked for, the tickets of a status, and one conversation."""

    title = "Conversations"
    path = places.CONVERSATIONS

    def __init__(self, frame: Frame, queries: Queries, traces: Traces, ask: AskRest) -> None:
        self._frame = frame
        self._queries = queries
        self._traces = traces
        self._conversations = Conversations(queries)
        self._ask = ask

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the pages, and the one button."""
        return [
            self._frame.get(self.path, self._overview),
            self._frame.get(places.TICKET, self._ticket),
            self._frame.get(places.MESSAGE, self._message),
            self._frame.post("/conversations/ask", self._ask_rest),
        ]

    async def _overview(self, visit: Visit) -> web.Response:
        asked = places.asked_of(visit)
        known: dict[str, Any] = {"asked": asked, "place": places.place, "found": None, "listed": None, "ages": None}
        known |= {"names": [name for name, _ in AGES], "counted": COUNTED, "slug": "", "more": None}
        tenant = places.tenant_of(visit, asked)
        if tenant is None:
            return visit.page("conversations.html", **known)
        slug, tenant_id = tenant[0], tenant[1].tenant_id
        known |= {"slug": slug, "statuses": cells}
        text = asked.get("find", "").strip()
        if text:
            personal = visit.may("personal")
            known["found"] = await visit.asked(
                "What was looked for", self._conversations.find(tenant_id, text, personal=personal)
            )
            if known["found"].value is not None:
                visit.showed("search", *found_ids(known["found"].value))
        elif "status" in asked:
            known |= await self._listed(visit, slug, tenant_id, asked)
        else:
            known["ages"] = await visit.asked("The tickets", self._conversations.ages(tenant_id, visit.now))
        return visit.page("conversations.html", **known)

    async def _listed(self, visit: Visit, slug: str, tenant_id: str, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of the tickets of a status, and the way to the next one."""
        numbers = {str(number): number for number in range(len(AGES))}
        age, key = numbers.get(asked.get("age", "")), key_after(asked, _BY_AGE)
        after = None if key is None else (key[0], key[1])
        question = self._conversations.tickets(
            tenant_id, asked["status"], visit.now, age=age, after=after, limit=TICKETS
        )
        listed = await visit.asked("The tickets", question)
        if listed.value is not None:
            visit.showed("ticket", *(row["id"] for row in listed.value[0]))
        following = None if listed.value is None else listed.value[1]
        query = {"tenant": slug, "status": asked["status"], "age": age}
        more = None if following is None else places.place(self.path, **query, after=opaque(following))
        return {"listed": listed, "more": more}

    async def _ticket(self, visit: Visit) -> web.Response:
        asked = places.asked_of(visit)
        slug, tenant = places.named_tenant(visit, asked)
        ticket_id, key = asked.get("id", ""), key_after(asked, _BY_TIME)
        found = await visit.asked("The ticket", self._queries.entity("tickets", tenant.tenant_id, ticket_id))
        ticket = found.value
        if ticket is None and not found.trouble:
            raise NotFoundError("nobody ever named this ticket here")
        before = None if key is None else (key[0], key[1])
        talk = await visit.asked(
            "The messages", self._conversations.talk(tenant.tenant_id, ticket_id, before=before, limit=TALK_LIMIT)
        )
        contact = await visit.asked("The contact", self._contact(tenant, (ticket or {}).get("contact_id")))
        traced = await visit.asked("What WhatSMS confirmed", self._traced(tenant, ticket_id))
        messages, older = ([], None) if talk.value is None else (talk.value.messages, talk.value.older)
        if ticket or messages:  # else what was typed may be anything
            visit.showed("conversation", ticket_id)
        return visit.page(
            "ticket.html",
            slug=slug,
            keyed=tenant.keyed,
            ticket=ticket,
            ticket_id=ticket_id,
            unread=found,
            contact=contact,
            rest=Brought(None if traced.value is None else traced.value.rest, traced.trouble),
            told_status=None if traced.value is None else _told_status(traced.value),
            talk=talk,
            days=days(messages),
            older=None if older is None else _page_of(slug, ticket_id, older),
            newest=before is None,
            untimed=0 if talk.value is None else talk.value.untimed,
            oldest=_page_of(slug, ticket_id, (None, "\U0010ffff")),
            gap=before is None
            and ticket is not None
            and talk.value is not None
            and unexplained(ticket["last_message"], messages),
            place=places.place,
        )

    async def _message(self, visit: Visit) -> web.Response:
        """Lead to where a message stands in its conversation; where nobody told in which, to what is found of it."""
        asked = places.asked_of(visit)
        slug, tenant = places.named_tenant(visit, asked)
        message_id = asked.get("id", "")
        async with self._queries.turn():
            row = (await self._traces.thing("message", tenant.tenant_id, message_id)).row
        if row is None:
            raise NotFoundError("nobody ever named this message here")
        ticket_id, at = row.values["ticket_id"], row.values["created_at"]
        to = places.place(self.path, tenant=slug, find=message_id)
        if isinstance(ticket_id, str):
            behind = at if isinstance(at, int) else None, f"{message_id}!"  # so that it is the last one of its page
            to = f"{_page_of(slug, ticket_id, behind)}#last"
        return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: to})

    async def _contact(self, tenant: ConsoleTenant, contact_id: object) -> Mapping[str, object] | None:
        if not isinstance(contact_id, str):
            return None
        return await self._queries.entity("contacts", tenant.tenant_id, contact_id)

    async def _traced(self, tenant: ConsoleTenant, ticket_id: str) -> ThingFacts:
        async with self._queries.turn():
            return await self._traces.thing("ticket", tenant.tenant_id, ticket_id)

    async def _ask_rest(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        slug, tenant = places.named_tenant(visit, fields)
        ticket_id = fields.get("id", "")
        if await self._queries.entity("tickets", tenant.tenant_id, ticket_id) is None:
            # Any text may be typed: it is neither sent to the vendor nor logged.
            raise NotFoundError("nobody ever named this ticket here")
        refused = await self._ask(slug, ticket_id)
        if refused is None:
            visit.did("ticket.ask", ticket_id)
        said = refused or "WhatSMS is being asked about this ticket. Load the page again in a minute."
        return visit.back(places.place(places.TICKET, tenant=slug, id=ticket_id), said)


def _page_of(slug: str, ticket_id: str, before: PageKey) -> str:
    """Return the way to the messages of a ticket before a place."""
    return places.place(places.TICKET, tenant=slug, id=ticket_id, after=opaque(before))


def _told_status(traced: ThingFacts) -> FieldPlace | None:
    """Return by what the status of a ticket was told; None where nobody told it."""
    version = None if traced.row is None else traced.row.versions.get("status")
    return None if version is None else field_place(version)


def cells(one: StatusAges) -> list[tuple[int | None, int]]:
    """Return the cells of a status: the number of the age that a cell links to, and the count."""
    numbers: list[int | None] = [*range(len(AGES)), None]
    return list(zip(numbers, one.counts, strict=True))
