"""The OpenAPI of the vendor's REST API is true of the twin, which serves it."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from twin.api import Api, serving
from whatsms_events.contracts.published import published

DOCUMENT: dict[str, Any] = json.loads(published()["vendor.openapi.json"])
OPERATIONS = [(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations]


def fits(method: str, path: str, status: int, shown: object) -> None:
    """Check an answer against the document."""
    answer = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]
    if "$ref" in answer:
        answer = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    schema = {**answer["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(shown)


def body(api: Api, schema: dict[str, Any]) -> dict[str, object]:
    """Return a body with every field of the schema that the account has a value for."""
    account = api.account
    ticket, contact = next(iter(account.tickets.values())), next(iter(account.contacts.values()))
    known: dict[str, object] = {
        "contactId": contact.id,
        "ticketId": ticket.id,
        "agentId": account.ai_agents[0].id,
        "status": "open",
        "channel": "sms",
        "name": "Ana",
        "number": "351919999999",
        "email": "ana@example.pt",
        "body": "Olá",
        "message": "Olá {{name}}",
        "extraInfo": [{"name": "a", "value": "b"}],
        "scheduledAt": "2027-01-01T10:00:00Z",
        "profilePicUrl": None,
    }
    sent = {name: known[name] for name in schema["properties"] if name in known}
    Draft202012Validator(schema).validate(sent)
    return sent


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_each_endpoint_is_as_the_document_says(method: str, path: str) -> None:
    """What the document allows is done and answered as it says; a body that lacks what it requires is refused, and so
    is whoever has no key.
    """
    operation = DOCUMENT["paths"][path][method.lower()]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    async with serving() as api:
        held = api.account.contacts if path.startswith("/api/v2/contacts") else api.account.tickets
        place = path.removeprefix("/api/v2").replace("{id}", str(next(iter(held))))
        sent = None if schema is None else body(api, schema)
        status, shown = await api.ask(method, place, sent)
        assert status == (201 if method == "POST" and not path.endswith("assign") else 200), shown
        fits(method, path, status, shown)
        for name in (schema or {}).get("required", ()):
            status, shown = await api.ask(method, place, {key: one for key, one in (sent or {}).items() if key != name})
            assert status == 400, name
            fits(method, path, status, shown)
        if "{id}" in path:
            status, shown = await api.ask(method, path.removeprefix("/api/v2").replace("{id}", "nobody"), sent)
            assert status == 404
            fits(method, path, status, shown)
        api.rest.api_key = "another"
        status, shown = await api.ask(method, place, sent)
        assert status == 401
        fits(method, path, status, shown)
