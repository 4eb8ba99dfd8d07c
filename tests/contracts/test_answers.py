"""What the read API really answers is what its OpenAPI says."""

import json
import re
from typing import Any, get_args
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from test_docs import TOLD, Client, asked_for
from test_docs import filled_api as _filled_api
from whatsms_events.contracts.published import published
from whatsms_events.domain.events import Entity

DOCUMENT: dict[str, Any] = json.loads(published()["openapi.json"])
filled_api = _filled_api
BY_SLUG = ("/api/v1/events", "/api/v1/stream")
"""Paths with the slug in a parameter."""


def judge(schema: Any) -> Draft202012Validator:
    """Return what checks an answer against a schema of the document."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]}, format_checker=FormatChecker())


async def test_each_answer_is_as_its_schema_says(filled_api: Client) -> None:
    """Each path's answer from databases that hold one of everything has the status, the media type and the schema that
    the document gives it, and no field of its own that the document does not know.
    """
    seen = set()
    for path, operations in DOCUMENT["paths"].items():
        if path.startswith("/contracts"):
            continue
        operation = operations["get"]
        given = {one["name"]: TOLD[one["name"]] for one in operation.get("parameters", ()) if one["name"] in TOLD}
        place = asked_for(path.replace("{role}", "receiver"))
        async with filled_api.get(place, params=given) as answer:
            described = operation["responses"][str(answer.status)]
            if "$ref" in described:
                described = DOCUMENT["components"]["responses"][described["$ref"].rpartition("/")[2]]
            assert answer.content_type in described["content"], path
            seen.add(answer.status)
            if not answer.content_type.endswith("json"):
                continue
            shown = await answer.json(content_type=None)
        schema = described["content"][answer.content_type]["schema"]
        judge(schema).validate(shown)
        assert not unknown(schema, shown, path), path
    assert seen == {200, 404}


def unknown(schema: Any, shown: Any, place: str) -> list[str]:
    """List the fields that no schema names; what the vendor's users made has none."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if isinstance(shown, list):
        return [name for one in shown for name in unknown(schema.get("items", {}), one, f"{place}[]")]
    if not isinstance(shown, dict) or "properties" not in schema:
        return []
    strange = [f"{place}.{name}" for name in shown.keys() - schema["properties"].keys()]
    inner = [
        name
        for key, one in shown.items()
        if key in schema["properties"]
        for name in unknown(schema["properties"][key], one, f"{place}.{key}")
    ]
    return strange + inner


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_each_operation_says_how_it_may_be_refused(path: str) -> None:
    """Whatever a token guards has 400, 401, 403 and 429, what has a name in its path 404, what asks a database 503."""
    operation = DOCUMENT["paths"][path]["get"]
    guarded = "security" not in operation
    assert guarded == path.startswith(("/api/", "/contracts"))
    assert ({"400", "401", "403", "429"} <= operation["responses"].keys()) == guarded
    assert ("404" in operation["responses"]) == (bool(re.search(r"\{", path)) or path in BY_SLUG)
    assert ("503" in operation["responses"]) == (path.startswith(("/api/", "/readyz")))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(str(UUID(int=1)), "event"), (str(UUID(int=1)), "parked"), *(("x", one) for one in get_args(Entity))],
)
async def test_each_trace_is_as_its_schema_says(filled_api: Client, name: str, kind: str) -> None:
    """What is known of an event, a parked delivery and each kind of thing fits the schema of its kind alone."""
    async with filled_api.get(f"/api/v1/shop/trace/{name}", params={"kind": kind}) as answer:
        assert answer.status == 200
        shown = (await answer.json())["trace"]
    components = DOCUMENT["components"]["schemas"]
    of_kind = {"event": "TraceOfEvent", "parked": "TraceOfParked"}.get(kind, "TraceOfThing")
    for component in ("TraceOfEvent", "TraceOfParked", "TraceOfThing"):
        assert judge(components[component]).is_valid(shown) == (component == of_kind), component
    assert not unknown(components[of_kind], shown, kind)
