"""What breaks who relies on a contract: found by `breaking`, and kept out of the contracts by the baseline."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.contracts.breaking import breaking
from whatsms_events.contracts.published import published

BASELINE = {path.name: path for path in sorted((Path(__file__).parent / "baseline").glob("*.json"))}
"""The contracts of the last release, and before the first one those of its beginning."""

Json = dict[str, Any]

LEAVES: st.SearchStrategy[Json] = st.one_of(
    st.sampled_from(["string", "integer", "boolean", "number"]).map(lambda kind: {"type": kind}),
    st.sampled_from(["string", "integer"]).map(lambda kind: {"type": [kind, "null"]}),
    st.just({"type": "string", "format": "date-time"}),
    st.just({"type": "string", "enum": ["a", "b", "c"]}),
)
NAMES = st.sampled_from(["one", "two", "three", "four"])


def objects(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    """Give objects whose fields are such things, some of them required."""
    return st.dictionaries(NAMES, inner, min_size=1).flatmap(
        lambda fields: st.sets(st.sampled_from(sorted(fields))).map(
            lambda needed: {"type": "object", "properties": fields, "required": sorted(needed)}
        )
    )


SCHEMAS = objects(
    st.recursive(
        LEAVES, lambda inner: objects(inner) | inner.map(lambda one: {"type": "array", "items": one}), max_leaves=8
    )
)


def places(schema: Json, kind: str) -> list[Json]:
    """List every schema in one, itself among them, that is of a kind, or has such words."""
    found = [schema] if kind in schema or schema.get("type") == kind else []
    for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        found += places(inner, kind)
    return found


@given(SCHEMAS)
def test_the_same_breaks_nothing(schema: Json) -> None:
    """A contract that did not change breaks nobody."""
    assert breaking(schema, copy.deepcopy(schema)) == []


@given(SCHEMAS, LEAVES, st.data())
def test_adding_what_is_optional_never_breaks(schema: Json, leaf: Json, data: st.DataObject) -> None:
    """A further field anywhere, and a further word of any enumeration, break nobody; taken away again, both do."""
    new = copy.deepcopy(schema)
    place = data.draw(st.sampled_from(places(new, "object")))
    place["properties"]["new"] = leaf
    assert breaking(schema, new) == []
    assert breaking(new, schema)
    place["required"] = [*place["required"], "new"]
    assert breaking(schema, new)
    if words := places(copy.deepcopy(schema), "enum"):
        more = copy.deepcopy(schema)
        places(more, "enum")[data.draw(st.integers(0, len(words) - 1))]["enum"].append("d")
        assert breaking(schema, more) == []
        assert breaking(more, schema)


@given(SCHEMAS, st.data())
def test_removing_always_breaks(schema: Json, data: st.DataObject) -> None:
    """A field that is gone anywhere breaks somebody, and so does one that was always there and may be missing now."""
    new = copy.deepcopy(schema)
    place = data.draw(st.sampled_from(places(new, "object")))
    name = data.draw(st.sampled_from(sorted(place["properties"])))
    if name in place["required"]:
        place["required"].remove(name)
        assert breaking(schema, new)
    del place["properties"][name]
    assert breaking(schema, new)


@given(SCHEMAS, st.data())
def test_another_type_always_breaks(schema: Json, data: st.DataObject) -> None:
    """A text that becomes a number, or may be null now, breaks somebody."""
    new = copy.deepcopy(schema)
    if not (found := places(new, "string")):
        return
    place = data.draw(st.sampled_from(found))
    place["type"] = data.draw(st.sampled_from(["integer", ["string", "null"], "array"]))
    assert breaking(schema, new)


def changed(name: str, *path: str) -> tuple[Json, Json, Any]:
    """Return a document twice, and what stands at a place of the second."""
    document: Json = json.loads(published()[name])
    new = copy.deepcopy(document)
    place: Any = new
    for part in path:
        place = place[part]
    return document, new, place


TICKETS = ("paths", "/api/v1/{slug}/tickets", "get")


def test_a_path_or_a_parameter_that_is_gone_breaks() -> None:
    """Who asks for it is refused: a path, a method, a parameter, a media type; and who must give one more."""
    old, new, paths = changed("openapi.json", "paths")
    del paths["/api/v1/{slug}/tickets"]
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets is gone"]
    old, new, operation = changed("openapi.json", *TICKETS)
    operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "status"]
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets: the parameter status is gone"]
    old, new, operation = changed("openapi.json", *TICKETS)
    operation["parameters"] += [{"name": "why", "in": "query", "required": True, "schema": {"type": "string"}}]
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets: the parameter why is required now"]
    operation["parameters"][-1]["required"] = False
    assert breaking(old, new) == []
    old, new, content = changed("openapi.json", *TICKETS, "responses", "200", "content")
    del content["application/json"]
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets 200: application/json is gone"]
    old, new, parameter = changed("openapi.json", *TICKETS, "parameters")
    next(one for one in parameter if one["name"] == "limit")["schema"]["maximum"] = 100
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets ?limit: maximum is 100 now, not 500"]
    next(one for one in parameter if one["name"] == "limit")["schema"].update(maximum=500, default=10)
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets ?limit: it is 10 by default now, not 50"]


def test_an_answer_may_have_more() -> None:
    """A field that each answer has from now on breaks nobody, since no answer is kept; one that may be missing does."""
    old, new, schema = changed("openapi.json", "components", "schemas", "Ticket")
    schema["properties"]["priority"] = {"type": "string"}
    schema["required"].append("priority")
    assert breaking(old, new) == []
    schema["required"].remove("status")
    assert all(one.endswith("status may be missing now") for one in breaking(old, new))
    assert breaking(old, new)


def test_a_refusal_or_a_header_of_an_answer_that_is_gone_breaks() -> None:
    """Who waits as long as `Retry-After` says, or knows what to do about 404, relies on both; more is news."""
    place = "GET /api/v1/{slug}/tickets"
    old, new, answers = changed("openapi.json", *TICKETS, "responses")
    del answers["404"]
    assert breaking(old, new) == [f"{place}: it does not answer 404 any more"]
    assert breaking(new, old) == []
    old, new, headers = changed("openapi.json", "components", "responses", "Refused503", "headers")
    headers["Retry-After"]["schema"]["type"] = "string"
    assert f"{place} 503 Retry-After: it is never integer any more" in breaking(old, new)
    del headers["Retry-After"]
    assert f"{place} 503: the header Retry-After is gone" in breaking(old, new)
    assert breaking(new, old) == []
    headers["Retry-After"] = {"required": True, "schema": {"type": "integer"}}
    assert breaking(old, new) == []
    assert f"{place} 503: the header Retry-After may be missing now" in breaking(new, old)


def test_a_bound_breaks_who_relied_on_the_other_side_of_it() -> None:
    """A reader was promised that a text is no longer and a number no larger; who asks may go as far as before."""
    old, new, field = changed("message.ack.schema.json", "$defs", "Message", "properties", "ack")
    field["maximum"] += 1
    assert breaking(old, new)
    assert breaking(new, old)  # and an old event may have the greater number
    del field["maximum"]
    assert breaking(old, new)
    old, new, schema = changed("openapi.json", "components", "schemas", "Ticket", "properties", "status")
    schema["maxLength"] = 20
    assert breaking(old, new) == []
    assert breaking(new, old)


@pytest.mark.parametrize("number", [0, 1])
def test_each_kind_of_block_of_the_event_feed_is_a_part_of_the_contract(number: int) -> None:
    """Readers look for the id, the type and the data of an event, for what the data holds, and for why a feed ends."""
    answer = ("paths", "/api/v1/stream", "get", "responses", "200", "content", "text/event-stream", "schema")
    for name in ("id", "event", "data"):
        old, new, schema = changed("openapi.json", *answer)
        del schema["anyOf"][number]["properties"][name]
        assert breaking(old, new), name
    for name in ("contentMediaType", "contentSchema"):
        old, new, schema = changed("openapi.json", *answer)
        del schema["anyOf"][number]["properties"]["data"][name]
        assert breaking(old, new), name
    old, new, schema = changed("openapi.json", *answer)
    del schema["anyOf"][number]
    assert breaking(old, new)


def test_a_body_that_must_say_more_breaks() -> None:
    """A field that a client need not send before is demanded; one that it need not send any more breaks nobody."""
    path = ("paths", "/api/v2/tickets", "post", "requestBody", "content", "application/json", "schema")
    old, new, schema = changed("vendor.openapi.json", *path)
    schema["required"].append("channel")
    assert breaking(old, new) == [
        "POST /api/v2/tickets body.channel is required now, and older ones may lack it",
    ]
    assert breaking(new, old) == []


def test_a_topic_a_message_or_a_header_that_is_gone_breaks() -> None:
    """Consumers look for each of them."""
    old, new, channels = changed("asyncapi.json", "channels")
    del channels["contacts"]
    assert breaking(old, new) == ["the channel contacts is gone"]
    old, new, channel = changed("asyncapi.json", "channels", "campaigns")
    del channel["messages"]["campaign.finished"]
    channel["address"] = "{prefix}.sendings"
    assert len(breaking(old, new)) == 2
    old, new, headers = changed("asyncapi.json", "components", "schemas", "Headers")
    del headers["properties"]["ce_subject"]
    headers["required"].remove("ce_sequence")
    assert {one.rpartition(" ")[0].rpartition("headers")[2] for one in breaking(old, new)} == {
        *("&0.ce_subject is", "&0.ce_sequence may be missing"),
    }


def test_how_a_record_is_carried_is_a_part_of_the_contract() -> None:
    """Its key's type and that there is one, its media type, who sends it, and what stands in the topic's name."""
    message = ("components", "messages", "published.ticket.closed")
    place = "conversations ticket.closed"
    old, new, kafka = changed("asyncapi.json", *message, "bindings", "kafka")
    kafka["key"]["type"] = "integer"
    assert sorted(breaking(old, new)) == [
        f"{place} kafka key: it is never string any more",
        f"{place} kafka key: it may be integer now",
    ]
    del kafka["key"]
    assert breaking(old, new) == [f"{place}: kafka says no key any more"]
    old, new, record = changed("asyncapi.json", *message)
    del record["bindings"]
    assert f"{place}: kafka says no key any more" in breaking(old, new)
    old, new, record = changed("asyncapi.json", *message)
    del record["contentType"]
    assert breaking(old, new) == []  # the document's own one is the same
    record["contentType"] = "application/cbor"
    assert breaking(old, new) == [f"{place}: it is application/cbor now, not application/json"]
    old, new, operations = changed("asyncapi.json", "operations")
    del operations["publishContacts"]
    operations["receiveDelivery"]["action"] = "send"
    operations["receiveDelivery"]["bindings"]["http"]["method"] = "PUT"
    assert breaking(old, new) == [
        "the operation publishContacts is gone",
        "receiveDelivery: its action is send now, not receive",
        "receiveDelivery: its method of http is PUT now, not POST",
    ]
    old, new, parameters = changed("asyncapi.json", "channels", "contacts", "parameters")
    parameters["prefix"]["default"] = "w"
    assert breaking(old, new) == ["contacts {prefix} is w by default now, not whatsms"]
    del parameters["prefix"]
    assert breaking(old, new) == ["contacts {prefix} is gone"]
    old, new, servers = changed("asyncapi.json", "servers")
    servers["kafka"]["protocol"] = "kafka-secure"
    assert breaking(old, new) == ["the server kafka: its protocol is kafka-secure now, not kafka"]
    old, new, channel = changed("asyncapi.json", "channels", "contacts")
    channel["servers"] = [{"$ref": "#/servers/another"}]
    assert breaking(old, new) == ["the channel contacts is at another server now"]


def test_a_token_that_is_asked_for_anew_breaks() -> None:
    """An open path must stay open, a scope must not be asked for that none was, and a token is shown as before."""
    old, new, probe = changed("openapi.json", "paths", "/livez", "get")
    probe["security"] = [{"token": []}]
    assert breaking(old, new) == ["GET /livez: it asks for another token than before"]
    assert breaking(new, old) == []
    probe["security"] = [{"token": []}, {}]
    assert breaking(old, new) == []
    old, new, tickets = changed("openapi.json", *TICKETS)
    tickets["security"] = [{"token": ["operate"]}]
    assert breaking(old, new) == ["GET /api/v1/{slug}/tickets: it asks for another token than before"]
    old, new, schemes = changed("openapi.json", "components", "securitySchemes")
    schemes["token"]["scheme"] = "basic"
    assert "GET /api/v1/{slug}/tickets: the token token is shown in another way" in breaking(old, new)


def test_the_baseline_is_whole() -> None:
    """Each document of the last release is still there, and before the first release each one that there is."""
    assert BASELINE
    assert BASELINE.keys() == {name for name in published() if name.endswith(".json")}


@pytest.mark.parametrize("name", BASELINE)
def test_no_change_since_the_last_release_breaks_a_reader(name: str) -> None:
    """The contracts break nobody who relies on those of the last release.

    Where a break is meant, say it in CHANGELOG.md, and take the document anew as docs/contributing.md says.
    """
    assert breaking(json.loads(BASELINE[name].read_bytes()), json.loads(published()[name])) == []
