"""Writes: what they answer, what they change, the webhooks that they cause, what they refuse."""

import json
from datetime import timedelta
from typing import Any

import pytest

from twin.api import START, TENANT, Api, lived, serving
from whatsms_events.domain.normalize import normalize
from whatsms_events.twin.account import Webhook
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.world import World

SHORT = timedelta(seconds=10)


def new(dialect: str = "documented") -> World:
    """Make a world in which nobody does anything by himself."""
    world = World(1, start=START, tenant_id=TENANT, dialect=DIALECTS[dialect])
    world.pause()
    world.advance(START)
    return world


def said(api: Api, seconds: float = 0.0) -> list[tuple[str, dict[str, Any]]]:
    """Give type and `data` of the webhooks that are out by then."""
    webhooks: list[Webhook] = api.world.advance(api.world.now + timedelta(seconds=seconds))
    return [(webhook.event_type.value, json.loads(webhook.body)["data"]) for webhook in webhooks]


async def with_contact(api: Api) -> Any:
    """Add a contact by the API; return its id."""
    status, body = await api.post("/contacts", name="João Silva", number="351910000000")
    assert status == 201
    said(api, 10)
    return body["contact"]["id"]


async def with_ticket(api: Api) -> Any:
    """Add a contact and a ticket by the API; return the ticket's id."""
    status, body = await api.post("/tickets", contactId=await with_contact(api))
    assert status == 201
    said(api, 10)
    return body["ticket"]["id"]


@pytest.mark.parametrize("dialect", ["documented", "integers", "flat", "no-updated-at"])
async def test_writes_are_done_and_announced_in_each_dialect(dialect: str) -> None:
    """A contact, a ticket, a message, changes of each: the answers are short, and the webhooks can be read."""
    async with serving(new(dialect)) as api:
        ticket_id = await with_ticket(api)
        contact_id = api.account.tickets[ticket_id].contact.id
        await api.put(f"/contacts/{contact_id}", email="joao.novo@exemplo.pt")
        await api.put(f"/tickets/{ticket_id}", status="open", userId=api.account.users[0].id)
        await api.post(f"/tickets/{ticket_id}/messages", body="Olá")
        await api.put(f"/tickets/{ticket_id}", status="closed")
        types = []
        for webhook in api.world.advance(api.world.now + SHORT):
            event = normalize(webhook.body, tenant=TENANT, received_at=START)
            types.append(event.type.value)
        assert types[:3] == ["contact.updated", "ticket.updated", "message.sent"]
        assert "ticket.closed" in types[3:]


async def test_a_contact_is_created_and_changed() -> None:
    """The answers are those of the vendor's page; `contact.created` and `contact.updated` tell all of it."""
    async with serving(new()) as api:
        extra = [{"name": "NIF", "value": "123456789"}]
        given = {"name": "João Silva", "number": "351910000000", "email": "joao@exemplo.pt", "extraInfo": extra}
        status, body = await api.post("/contacts", **given, profilePicUrl="https://exemplo.pt/eu.jpg")
        assert status == 201
        contact_id = body["contact"]["id"]
        assert body["contact"] == {
            "id": contact_id,
            "name": "João Silva",
            "number": "351910000000",
            "createdAt": "2026-01-15T10:30:00.000Z",
        }
        [(event_type, data)] = said(api, 10)
        assert event_type == "contact.created"
        assert data["contact"] == given | {
            "id": contact_id,
            "profilePicUrl": "https://exemplo.pt/eu.jpg",
            "isGroup": False,
            "createdAt": "2026-01-15T10:30:00.000Z",
        }
        info = [{"name": "Empresa", "value": "Acme Lda"}]
        status, body = await api.put(f"/contacts/{contact_id}", name="João M. Silva", email=None, extraInfo=info)
        assert (status, list(body["contact"])) == (200, ["id", "name", "updatedAt"])
        [(event_type, data)] = said(api, 10)
        assert event_type == "contact.updated"
        assert (data["contact"]["name"], data["contact"]["email"]) == ("João M. Silva", None)
        assert data["contact"]["updatedAt"] == body["contact"]["updatedAt"]
        shown = (await api.get(f"/contacts/{contact_id}"))["contact"]
        assert (shown["name"], shown["email"], shown["extraInfo"]) == ("João M. Silva", None, info)


async def test_a_ticket_is_created_with_what_was_given() -> None:
    """State, channel, agent and queue are as given, pending on WhatsApp without; `ticket.created` tells them."""
    async with serving(new()) as api:
        contact_id = await with_contact(api)
        user, queue = api.account.users[1], api.account.queues[2]
        status, body = await api.post(
            "/tickets", contactId=contact_id, status="open", channel="sms", userId=user.id, queueId=queue.id
        )
        assert status == 201
        assert list(body["ticket"]) == ["id", "status", "channel", "createdAt"]
        assert (body["ticket"]["status"], body["ticket"]["channel"]) == ("open", "sms")
        [(event_type, data)] = said(api, 10)
        assert event_type == "ticket.created"
        assert data["ticket"]["user"] == {"id": user.id, "name": user.name}
        assert data["ticket"]["queue"] == {"id": queue.id, "name": queue.name}
        _, body = await api.post("/tickets", contactId=contact_id, whatsappId="x", foo=1)
        assert (body["ticket"]["status"], body["ticket"]["channel"]) == ("pending", "whatsapp")


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_ticket_is_changed_by_either_method(method: str) -> None:
    """State, agent and queue are set where they are given, taken away by null, and announced as an update."""
    async with serving(new()) as api:
        ticket_id = await with_ticket(api)
        ticket, user, queue = api.account.tickets[ticket_id], api.account.users[0], api.account.queues[0]
        given = {"status": "open", "userId": user.id, "queueId": queue.id}
        status, body = await api.ask(method, f"/tickets/{ticket_id}", given)
        assert status == 200
        assert list(body["ticket"]) == ["id", "status", "updatedAt"]
        assert (ticket.status, ticket.user, ticket.queue) == ("open", user, queue)
        [(event_type, data)] = said(api, 10)
        assert event_type == "ticket.updated"
        assert data["ticket"]["updatedAt"] == body["ticket"]["updatedAt"]
        await api.ask(method, f"/tickets/{ticket_id}", {"userId": None})
        assert (ticket.status, ticket.user, ticket.queue) == ("open", None, queue)


async def test_closing_is_announced_once() -> None:
    """`ticket.closed` comes when a ticket is closed, and not again when a closed one gets another agent."""
    async with serving(new()) as api:
        ticket_id = await with_ticket(api)
        await api.put(f"/tickets/{ticket_id}", status="closed")
        assert [event_type for event_type, _ in said(api, 10)][-1] == "ticket.closed"
        await api.put(f"/tickets/{ticket_id}", userId=api.account.users[0].id)
        assert [event_type for event_type, _ in said(api, 10)] == ["ticket.updated"]
        await api.put(f"/tickets/{ticket_id}", status="open")
        assert [event_type for event_type, _ in said(api, 10)] == ["ticket.updated"]


async def test_a_message_is_sent_and_acknowledged() -> None:
    """The answer has ack 1; `message.sent` follows, and acks as for any message; the ticket moves to the top."""
    async with serving(lived()) as api:
        ticket_id = next(iter(api.account.tickets))
        given = {"body": "Olá! Como posso ajudar?", "mediaUrl": "https://exemplo.pt/a.jpg", "mediaType": "image"}
        status, body = await api.post(f"/tickets/{ticket_id}/messages", **given)
        assert status == 201
        assert list(body["message"]) == ["id", "body", "fromMe", "ack", "createdAt"]
        assert (body["message"]["fromMe"], body["message"]["ack"]) == (True, 1)
        assert (await api.get("/tickets"))["tickets"][0]["id"] == ticket_id
        assert (await api.get("/tickets"))["tickets"][0]["lastMessage"] == given["body"]
        told = [(kind, data["message"]) for kind, data in said(api, 60) if "message" in data]
        mine = [(kind, message) for kind, message in told if message["id"] == body["message"]["id"]]
        assert mine[0][0] == "message.sent"
        assert (mine[0][1]["mediaUrl"], mine[0][1]["mediaType"]) == (given["mediaUrl"], "image")
        assert [kind for kind, _ in mine[1:]].count("message.ack") >= 1
        quoted = body["message"]["id"]
        _, body = await api.post(f"/tickets/{ticket_id}/messages", body="Sim", quotedMsgId=quoted)
        assert api.account.messages[body["message"]["id"]].quoted == quoted


async def test_a_campaign_is_sent_when_it_is_due() -> None:
    """It is pending at first; without a time it is sent at once, else then; at its end comes `campaign.finished`."""
    async with serving(lived()) as api:
        status, now = await api.post("/campaigns", name="Verão", message="Olá {{name}} ({{number}})!", scheduledAt=None)
        assert status == 201
        assert list(now["campaign"]) == ["id", "name", "status", "createdAt"]
        assert now["campaign"]["status"] == "pending"
        due = api.world.now + timedelta(hours=1)
        _, later = await api.post("/campaigns", name="Inverno", message="Brr", scheduledAt=due.isoformat())
        _, never = await api.post("/campaigns", name="3000", message="Oh", scheduledAt="9999-12-31T23:59:59+00:00")
        ids = [body["campaign"]["id"] for body in (now, later, never)]
        first = [data["campaign"]["id"] for kind, data in said(api, 600) if kind == "campaign.finished"]
        assert ids[0] in first
        assert ids[1] not in first
        assert api.account.campaigns[ids[1]].status == "pending"
        assert api.account.campaigns[ids[0]].sent_count > 5
        assert any("Olá" in message.body for message in api.account.campaigns[ids[0]].messages)
        assert not any("{{" in message.body for message in api.account.campaigns[ids[0]].messages)
        assert ids[1] in [data["campaign"]["id"] for kind, data in said(api, 3600) if kind == "campaign.finished"]
        assert api.account.campaigns[ids[2]].status == "pending"


async def test_an_ai_agent_is_assigned_and_removed() -> None:
    """The answer tells the agent, null where it was removed; `ticket.updated` follows each time."""
    async with serving(new()) as api:
        ticket_id, agent = await with_ticket(api), api.account.ai_agents[0]
        for agent_id in (agent.id, None):
            status, body = await api.post("/ai-agents/assign", ticketId=ticket_id, agentId=agent_id)
            assert status == 200
            assert body["ticket"].keys() == {"id", "aiAgentId", "updatedAt"}
            assert body["ticket"]["aiAgentId"] == agent_id
            [(event_type, data)] = said(api, 10)
            assert event_type == "ticket.updated"
            assert data["ticket"].get("aiAgentId") == agent_id


async def test_integer_ids_may_come_as_text_in_a_body() -> None:
    """Where ids are numbers a client that keeps them as text is understood; other text is not."""
    async with serving(new("integers")) as api:
        contact_id = await with_contact(api)
        assert isinstance(contact_id, int)
        assert (await api.post("/tickets", contactId=contact_id))[0] == 201
        assert (await api.post("/tickets", contactId=str(contact_id)))[0] == 201
        for wrong in ("x", "", True, [contact_id], None, 1.5):
            assert (await api.post("/tickets", contactId=wrong))[0] == 400


REFUSED: list[tuple[str, str, dict[str, object], int, str]] = [
    ("POST", "/tickets", {}, 400, "contactId"),
    ("POST", "/tickets", {"contactId": "nobody"}, 404, "Contacto"),
    ("POST", "/tickets", {"contactId": "{contact}", "status": "aberto"}, 400, "status"),
    ("POST", "/tickets", {"contactId": "{contact}", "channel": 7}, 400, "channel"),
    ("POST", "/tickets", {"contactId": "{contact}", "queueId": "x"}, 404, "Fila"),
    ("POST", "/tickets", {"contactId": "{contact}", "userId": "x"}, 404, "Utilizador"),
    ("PUT", "/tickets/{ticket}", {}, 400, "atualizar"),
    ("PUT", "/tickets/{ticket}", {"status": None}, 400, "status"),
    ("PUT", "/tickets/nada", {"status": "open"}, 404, "Ticket"),
    ("POST", "/tickets/nada/messages", {"body": "x"}, 404, "Ticket"),
    ("POST", "/tickets/{ticket}/messages", {}, 400, "body"),
    ("POST", "/tickets/{ticket}/messages", {"body": " "}, 400, "body"),
    ("POST", "/tickets/{ticket}/messages", {"body": "x", "mediaType": "image"}, 400, "mediaUrl"),
    ("POST", "/tickets/{ticket}/messages", {"body": "x", "mediaType": "gif", "mediaUrl": "u"}, 400, "mediaType"),
    ("POST", "/tickets/{ticket}/messages", {"body": "x", "mediaUrl": 7}, 400, "mediaUrl"),
    ("POST", "/tickets/{ticket}/messages", {"body": "x", "quotedMsgId": "y"}, 404, "Mensagem"),
    ("POST", "/contacts", {"name": "x"}, 400, "number"),
    ("POST", "/contacts", {"number": "x"}, 400, "name"),
    ("POST", "/contacts", {"name": "x", "number": "351910000000"}, 400, "número"),
    ("POST", "/contacts", {"name": "x", "number": "1", "email": 7}, 400, "email"),
    ("POST", "/contacts", {"name": "x", "number": "1", "extraInfo": [{"name": "a"}]}, 400, "extraInfo"),
    ("PUT", "/contacts/{contact}", {"number": "2"}, 400, "atualizar"),
    ("PUT", "/contacts/{contact}", {"name": None}, 400, "name"),
    ("PUT", "/contacts/nada", {"name": "x"}, 404, "Contacto"),
    ("POST", "/campaigns", {"name": "x"}, 400, "message"),
    ("POST", "/campaigns", {"message": "x"}, 400, "name"),
    ("POST", "/campaigns", {"name": "x", "message": "y", "scheduledAt": "amanhã"}, 400, "scheduledAt"),
    ("POST", "/campaigns", {"name": "x", "message": "y", "scheduledAt": "2026-06-01T09:00:00"}, 400, "scheduledAt"),
    ("POST", "/ai-agents/assign", {"ticketId": "{ticket}"}, 400, "agentId"),
    ("POST", "/ai-agents/assign", {"agentId": None}, 400, "ticketId"),
    ("POST", "/ai-agents/assign", {"ticketId": "nada", "agentId": None}, 404, "Ticket"),
    ("POST", "/ai-agents/assign", {"ticketId": "{ticket}", "agentId": "x"}, 404, "Agente"),
]


async def test_what_cannot_be_done_is_refused_by_name_and_changes_nothing() -> None:
    """A field that is missing or wrong is a 400, an id that nothing has a 404; nothing is announced."""
    async with serving(new()) as api:
        ticket_id = await with_ticket(api)
        known = {"{ticket}": ticket_id, "{contact}": api.account.tickets[ticket_id].contact.id}
        for method, path, given, status, text in REFUSED:
            body = {name: known.get(str(value), value) for name, value in given.items()}
            for name, value in known.items():
                path = path.replace(name, str(value))  # noqa: PLW2901
            answered, error = await api.ask(method, path, body)
            assert (answered, error.keys()) == (status, {"error"}), (path, given, error)
            assert text in error["error"]
        assert said(api, 10) == []
        assert len(api.account.contacts) == len(api.account.tickets) == 1
        assert not api.account.campaigns


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"name": NaN}'])
async def test_a_body_that_is_no_json_object_is_a_400(raw: bytes) -> None:
    """Whatever is sent in place of an object is refused in the vendor's form."""
    async with serving(new()) as api, api.session.post(api.server.url + "/contacts", data=raw) as response:
        assert response.status == 400
        assert (await response.json()).keys() == {"error"}
