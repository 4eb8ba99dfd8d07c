"""Lists and single resources: the vendor's shapes, pages, orders, filters."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from twin.api import Api, lived, serving
from whatsms_events.twin.shapes import Shape

PATHS = {"tickets": "/tickets", "contacts": "/contacts", "campaigns": "/campaigns"}


async def walk(api: Api, path: str, plural: str, limit: int = 100, **query: object) -> list[dict[str, Any]]:
    """Read all pages of a list that stands still."""
    items: list[dict[str, Any]] = []
    number = 1
    while True:
        body = await api.get(path, page=number, limit=limit, **query)
        assert body.keys() == {plural, "count", "hasMore"}
        items += body[plural]
        assert body["hasMore"] is (len(items) < body["count"])
        if not body["hasMore"]:
            assert len(items) == body["count"]
            return items
        assert len(body[plural]) == limit
        number += 1


async def test_a_ticket_is_shown_as_on_the_vendors_page() -> None:
    """The list has contact and last message and neither agent, queue nor `updatedAt`; the single ticket the reverse."""
    async with serving() as api:
        listed = (await api.get("/tickets"))["tickets"][0]
        assert list(listed) == ["id", "status", "channel", "contact", "lastMessage", "createdAt"]
        assert listed["contact"].keys() == {"id", "name", "number"}
        with_agent = next(ticket for ticket in api.account.tickets.values() if ticket.ai_agent_id is not None)
        without = next(
            ticket for ticket in api.account.tickets.values() if ticket.ai_agent_id is None and ticket.user is not None
        )
        names = ["id", "status", "channel", "contact", "user", "queue", "createdAt", "updatedAt"]
        shown = (await api.get(f"/tickets/{without.id}"))["ticket"]
        assert list(shown) == names
        assert shown["user"].keys() == shown["queue"].keys() == {"id", "name"}
        assert shown == api.account.shapes.answer(Shape.TICKET, without)
        other = (await api.get(f"/tickets/{with_agent.id}"))["ticket"]
        assert other.keys() == {*names, "aiAgentId"}


async def test_a_contact_is_shown_as_on_the_vendors_page() -> None:
    """The list has picture and group and no `extraInfo`; the single contact has that, and neither `updatedAt`."""
    async with serving() as api:
        listed = (await api.get("/contacts"))["contacts"][0]
        assert list(listed) == ["id", "name", "number", "email", "profilePicUrl", "isGroup", "createdAt"]
        contact = next(contact for contact in api.account.contacts.values() if contact.extra_info)
        shown = (await api.get(f"/contacts/{contact.id}"))["contact"]
        assert list(shown) == ["id", "name", "number", "email", "extraInfo", "createdAt"]
        assert shown["extraInfo"] == contact.extra_info
        assert shown["extraInfo"][0].keys() == {"name", "value"}


async def test_messages_campaigns_and_agents_are_shown_as_on_the_vendors_page() -> None:
    """A message names no ticket; what is deleted or quotes another says so; agents come without pages."""
    async with serving() as api:
        ticket = max(api.account.tickets.values(), key=lambda ticket: len(ticket.messages))
        names = ["id", "body", "fromMe", "mediaType", "mediaUrl", "ack", "createdAt"]
        for message in (await api.get(f"/tickets/{ticket.id}/messages", limit=100))["messages"]:
            assert [name for name in message if name not in {"quotedMsgId", "isDeleted"}] == names
            assert message == api.account.show_message(api.account.messages[message["id"]])
        campaign = (await api.get("/campaigns"))["campaigns"][0]
        assert list(campaign) == ["id", "name", "status", "scheduledAt", "sentCount", "failedCount", "createdAt"]
        agents = await api.get("/ai-agents")
        assert agents.keys() == {"agents"}
        assert list(agents["agents"][0]) == [
            *("id", "name", "model", "isActive", "enabledIntegrations", "handoffEnabled", "createdAt")
        ]


VENDORS = {
    Shape.TICKET_LISTED: """{ "id": "uuid", "status": "open", "channel": "whatsapp",
        "contact": { "id": "uuid", "name": "João Silva", "number": "351910000000" },
        "lastMessage": "Olá, preciso de ajuda", "createdAt": "2026-01-15T10:30:00Z" }""",
    Shape.TICKET: """{ "id": "uuid", "status": "open", "channel": "whatsapp",
        "contact": { "id": "uuid", "name": "João Silva", "number": "351910000000" },
        "user": { "id": "uuid", "name": "Agente" }, "queue": { "id": "uuid", "name": "Suporte" },
        "createdAt": "2026-01-15T10:30:00Z", "updatedAt": "2026-01-15T11:00:00Z" }""",
    Shape.TICKET_CREATED: """{ "id": "uuid", "status": "open", "channel": "whatsapp",
        "createdAt": "2026-01-15T10:30:00Z" }""",
    Shape.TICKET_UPDATED: """{ "id": "uuid", "status": "closed", "updatedAt": "2026-01-15T12:00:00Z" }""",
    Shape.TICKET_ASSIGNED: """{ "id": "uuid", "aiAgentId": "uuid", "updatedAt": "2026-01-15T10:00:00Z" }""",
    Shape.MESSAGE_LISTED: """{ "id": "uuid", "body": "Olá, preciso de ajuda", "fromMe": false, "mediaType": null,
        "mediaUrl": null, "ack": 3, "createdAt": "2026-01-15T10:30:00Z" }""",
    Shape.MESSAGE_CREATED: """{ "id": "uuid", "body": "Olá! Como posso ajudar?", "fromMe": true, "ack": 1,
        "createdAt": "2026-01-15T10:31:00Z" }""",
    Shape.CONTACT_LISTED: """{ "id": "uuid", "name": "João Silva", "number": "351910000000",
        "email": "joao@exemplo.pt", "profilePicUrl": "https://...", "isGroup": false,
        "createdAt": "2026-01-10T09:00:00Z" }""",
    Shape.CONTACT: """{ "id": "uuid", "name": "João Silva", "number": "351910000000", "email": "joao@exemplo.pt",
        "extraInfo": [{ "name": "NIF", "value": "123456789" }], "createdAt": "2026-01-10T09:00:00Z" }""",
    Shape.CONTACT_CREATED: """{ "id": "uuid", "name": "João Silva", "number": "351910000000",
        "createdAt": "2026-01-15T10:00:00Z" }""",
    Shape.CONTACT_UPDATED: """{ "id": "uuid", "name": "João M. Silva", "updatedAt": "2026-01-15T11:00:00Z" }""",
    Shape.CAMPAIGN_LISTED: """{ "id": "uuid", "name": "Promoção Verão 2026", "status": "finished",
        "scheduledAt": "2026-06-01T09:00:00Z", "sentCount": 342, "failedCount": 3,
        "createdAt": "2026-05-20T10:00:00Z" }""",
    Shape.CAMPAIGN_CREATED: """{ "id": "uuid", "name": "Promoção Verão 2026", "status": "pending",
        "createdAt": "2026-05-20T10:00:00Z" }""",
}
"""The examples of the vendor's page, each as it stands there."""


@pytest.mark.parametrize("shape", Shape)
def test_the_shapes_are_those_of_the_vendors_page(shape: Shape) -> None:
    """Each answer shows the names of the vendor's example in its order, and beyond it only what is seldom set."""
    seldom = {"quotedMsgId", "isDeleted"} if shape is Shape.MESSAGE_LISTED else set()
    seldom |= {"aiAgentId"} if shape is Shape.TICKET else set()
    assert [name for name in shape.value if name not in seldom] == list(json.loads(VENDORS[shape]))


@pytest.mark.parametrize("plural", PATHS)
async def test_pages_add_up_to_the_account(plural: str) -> None:
    """Read page by page, of any size, a list that stands still has every entity once; 20 a page, 100 at most."""
    world = lived(webhooks=20_000)
    async with serving(world) as api:
        held = {entity.id for entity in getattr(world.account, plural).values()}
        for limit in (1, 7, 100):
            api.rest.page_limit = max(limit, 7)
            items = await walk(api, PATHS[plural], plural, limit)
            assert len(items) == len(held)
            assert {item["id"] for item in items} == held
        api.rest.page_limit = 100
        assert len((await api.get(PATHS[plural]))[plural]) == min(20, len(held))
        assert len((await api.get(PATHS[plural], limit=5000))[plural]) == min(100, len(held))
        beyond = await api.get(PATHS[plural], page=999_999)
        assert beyond == {plural: [], "count": len(held), "hasMore": False}


async def test_tickets_come_latest_first_and_move_when_touched() -> None:
    """A ticket that is touched between two pages jumps to the first: the reader sees others twice, and misses it."""
    async with serving() as api:
        order = [ticket["id"] for ticket in await walk(api, "/tickets", "tickets")]
        times = [api.account.tickets[ticket_id].updated_at for ticket_id in order]
        assert times == sorted(times, reverse=True)
        first = [ticket["id"] for ticket in (await api.get("/tickets", limit=5))["tickets"]]
        ahead = api.account.tickets[order[-1]]
        api.account.now += timedelta(seconds=1)
        api.account.touch_ticket(ahead)
        second = [ticket["id"] for ticket in (await api.get("/tickets", limit=5, page=2))["tickets"]]
        assert second[0] == first[-1]
        assert (await api.get("/tickets", limit=1))["tickets"][0]["id"] == ahead.id
        rest = [ticket["id"] for ticket in await walk(api, "/tickets", "tickets")]
        assert rest == [ahead.id, *(ticket_id for ticket_id in order if ticket_id != ahead.id)]


async def test_contacts_and_campaigns_come_by_name() -> None:
    """Names ascend, as code points; a contact without a name is at the end; a rename moves it."""
    async with serving(lived(webhooks=20_000)) as api:
        first, second = list(api.account.contacts.values())[:2]
        first.name = second.name = None
        names = [contact["name"] for contact in await walk(api, "/contacts", "contacts")]
        known = [name for name in names if name is not None]
        assert known == sorted(known)
        assert names == known + [None] * (len(names) - len(known))
        assert names.count(None) >= 2
        campaigns = [campaign["name"] for campaign in await walk(api, "/campaigns", "campaigns")]
        assert campaigns == sorted(campaigns)
        assert len(campaigns) > 5
        last = list(api.account.contacts.values())[-1]
        last.name = "!"
        shown = (await api.get("/contacts", limit=100))["contacts"]
        assert [contact["name"] for contact in shown] == sorted(contact["name"] for contact in shown)
        assert "!" in [contact["name"] for contact in shown]


async def test_messages_come_latest_page_first_each_page_turned_round() -> None:
    """Page 1 has the latest messages, within a page they are in the order they were written."""
    async with serving() as api:
        ticket = max(api.account.tickets.values(), key=lambda ticket: len(ticket.messages))
        written = [message.id for message in ticket.messages]
        assert len(written) > 7
        path = f"/tickets/{ticket.id}/messages"
        pages = [await api.get(path, limit=3, page=number) for number in range(1, -(-len(written) // 3) + 1)]
        assert [message["id"] for message in pages[0]["messages"]] == written[-3:]
        assert [message["id"] for page in reversed(pages) for message in page["messages"]] == written
        assert [page["hasMore"] for page in pages] == [True] * (len(pages) - 1) + [False]


async def test_filters() -> None:
    """Tickets by state and contact, campaigns by state, contacts by name, number or e-mail; others are ignored."""
    async with serving() as api:
        account = api.account
        for status in ("open", "pending", "closed"):
            shown = await walk(api, "/tickets", "tickets", status=status)
            assert {ticket["id"] for ticket in shown} == {
                ticket.id for ticket in account.tickets.values() if ticket.status == status
            }
        contact = next(iter(account.contacts.values()))
        shown = await walk(api, "/tickets", "tickets", contactId=contact.id)
        assert [ticket["id"] for ticket in shown] == [
            ticket.id for ticket in sorted(account.tickets_of[contact.id], key=lambda t: t.updated_at, reverse=True)
        ]
        assert await walk(api, "/tickets", "tickets", contactId="6f1d3a52") == []
        finished = await walk(api, "/campaigns", "campaigns", status="finished")
        assert {campaign["status"] for campaign in finished} == {"finished"}
        assert await walk(api, "/campaigns", "campaigns", status="cancelled") == []
        for search in ("silva", contact.number[3:], "@EXEMPLO"):
            found = await walk(api, "/contacts", "contacts", search=search)
            assert {one["id"] for one in found} == {
                one.id
                for one in account.contacts.values()
                if search.lower() in f"{one.name}\n{one.number}\n{one.email}".lower()
            }
            assert found
        assert await walk(api, "/tickets", "tickets", pageNumber=7, estado="open") == await walk(
            api, "/tickets", "tickets"
        )


@pytest.mark.parametrize("value", ["0", "-1", "dois", "", "1.5", "٣", "9" * 5000, "1e3", " 1"])
async def test_a_page_that_is_no_number_from_1_is_a_400(value: str) -> None:
    """Page and limit have to be whole numbers from 1; the error names the parameter."""
    async with serving() as api:
        for name in ("page", "limit"):
            for path in PATHS.values():
                status, body = await api.ask("GET", path, **{name: value})
                assert (status, body.keys()) == (400, {"error"})
                assert f"'{name}'" in body["error"]


async def test_a_state_that_is_unknown_is_a_400() -> None:
    """A filter by a state that there is not is refused, by name."""
    async with serving() as api:
        for path in ("/tickets", "/campaigns"):
            status, body = await api.ask("GET", path, status="aberto")
            assert status == 400
            assert "'status'" in body["error"]


async def test_what_is_not_there_is_a_404() -> None:
    """Unknown ids, and what was removed, are not found; each error says what was not found."""
    async with serving() as api:
        ticket_id, contact_id = next(iter(api.account.tickets)), list(api.account.contacts)[-1]
        for path in ("/tickets/nada", "/contacts/nada", "/tickets/nada/messages"):
            status, body = await api.ask("GET", path)
            assert status == 404
            assert "não encontrado" in body["error"]
        api.account.remove_ticket(ticket_id)
        api.account.remove_contact(contact_id)
        assert (await api.ask("GET", f"/tickets/{ticket_id}"))[0] == 404
        assert (await api.ask("GET", f"/contacts/{contact_id}"))[0] == 404
        assert all(ticket["id"] != ticket_id for ticket in await walk(api, "/tickets", "tickets"))


async def test_with_integer_ids_paths_and_filters_are_numbers() -> None:
    """Where ids are numbers they are shown as such; another id is a 400, an unknown number a 404."""
    async with serving(lived("integers")) as api:
        ticket = (await api.get("/tickets"))["tickets"][0]
        assert isinstance(ticket["id"], int)
        assert (await api.get(f"/tickets/{ticket['id']}"))["ticket"]["id"] == ticket["id"]
        assert (await api.get("/tickets", contactId=ticket["contact"]["id"]))["count"] >= 1
        assert (await api.get(f"/tickets/{ticket['id']}/messages"))["messages"][0]["id"].startswith("3EB0")
        for wrong in ("abc", "-1", "1x", "٣", "9" * 5000):
            assert (await api.ask("GET", f"/tickets/{wrong}"))[0] == 400
        assert (await api.ask("GET", "/tickets", contactId="abc"))[0] == 400
        assert (await api.ask("GET", "/tickets/99999999"))[0] == 404


async def test_dialects_without_updated_at_show_none_and_seconds_are_whole() -> None:
    """REST speaks the world's dialect: no `updatedAt` anywhere, whole seconds, ack 0."""
    async with serving(lived("no-updated-at")) as api:
        ticket_id = next(iter(api.account.tickets))
        assert "updatedAt" not in (await api.get(f"/tickets/{ticket_id}"))["ticket"]
        _, answered = await api.put(f"/tickets/{ticket_id}", status="open")
        assert answered["ticket"].keys() == {"id", "status"}
    async with serving(lived("seconds")) as api:
        assert re.fullmatch(r"2026-01-15T\d\d:\d\d:\d\dZ", (await api.get("/tickets"))["tickets"][0]["createdAt"])
    async with serving(lived("zero-acks")) as api:
        ticket_id = next(iter(api.account.tickets))
        _, answered = await api.post(f"/tickets/{ticket_id}/messages", body="Olá")
        assert answered["message"]["ack"] == 0


async def test_half_an_emoji_is_shown_as_the_vendor_would() -> None:
    """`lastMessage` may end in half a surrogate pair, which is an escape in the JSON."""
    async with serving(lived(webhooks=200)) as api:
        ticket = next(iter(api.account.tickets.values()))
        ticket.last_message = "cortado \ud83d"
        api.account.touch_ticket(ticket)
        async with api.session.get(api.server.url + "/tickets") as response:
            assert rb'"lastMessage":"cortado \ud83d"' in await response.read()
