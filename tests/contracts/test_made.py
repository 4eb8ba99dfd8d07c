"""The contracts: as fresh as the code, valid to the judges of each kind, and true of what is really published."""

import copy
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from conftest import missing
from whatsms_events.contracts.documents import documents
from whatsms_events.contracts.listener import private_routes
from whatsms_events.contracts.openapi import read_api
from whatsms_events.contracts.prose import Prose, read_api_prose
from whatsms_events.contracts.published import published
from whatsms_events.domain.events import OURS, Event, EventType, LogEntry
from whatsms_events.domain.records import OPTIONAL, to_record

ROOT = Path(__file__).resolve().parents[2]
NODE = Path(__file__).parent / "node"
READ_API = (ROOT / "docs" / "read-api.md").read_text(encoding="utf-8")
EVENTS = (ROOT / "docs" / "events-and-kafka.md").read_text(encoding="utf-8")
SAMPLES = sorted((ROOT / "tests" / "deliveries").glob("*.event.json"))
DOCUMENTS: dict[str, Any] = {name: json.loads(held) for name, held in published().items() if name.endswith(".json")}
SCHEMAS = {name.removesuffix(".schema.json"): one for name, one in DOCUMENTS.items() if ".schema." in name}
LOG = UUID(int=7)


def sample(path: Path) -> Event:
    """Return the event of a sample."""
    held = json.loads(path.read_bytes())
    held["data"] = msgspec.json.encode(held["data"])
    return msgspec.convert(held, Event, builtin_types=(bytes,))


def generator() -> ModuleType:
    """Return the program that `make docs` runs."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_contracts_are_as_the_code_makes_them() -> None:
    """`make docs` would write, change and remove no file of the contracts."""
    made = {path.name: held for path, held in generator().contracts().items()}
    stale = sorted(name for name in made.keys() | published().keys() if made.get(name) != published().get(name))
    assert not stale, f"stale: {stale}: make docs"


def test_each_event_type_has_its_schema_and_its_messages() -> None:
    """There is a schema for each event type, and AsyncAPI has each as a message, the vendor's nine twice."""
    assert SCHEMAS.keys() == set(EventType)
    published_names = {name.removeprefix("published.") for name in DOCUMENTS["asyncapi.json"]["components"]["messages"]}
    assert set(EventType) <= published_names
    delivered = {name.removeprefix("delivered.") for name in published_names if name.startswith("delivered.")}
    assert delivered == set(EventType) - OURS


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_valid_json_schema(name: str) -> None:
    """The metaschema of draft 2020-12 accepts it."""
    assert SCHEMAS[name]["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", ["openapi.json", "vendor.openapi.json"])
def test_each_openapi_document_is_valid(name: str) -> None:
    """The validator of OpenAPI 3.1 accepts it, and would not accept it with a parameter that nothing declares."""
    document = DOCUMENTS[name]
    OpenAPIV31SpecValidator(document).validate()
    wrong = copy.deepcopy(document)
    next(iter(wrong["paths"].values()))["get"]["parameters"] = [{"name": "x", "in": "nowhere"}]
    assert list(OpenAPIV31SpecValidator(wrong).iter_errors())


def references(value: object) -> Iterator[str]:
    """List every reference within a document."""
    match value:
        case {"$ref": str(target), **rest}:
            yield target
            yield from references(rest)
        case dict():
            for one in value.values():
                yield from references(one)
        case list():
            for one in value:
                yield from references(one)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_reference_leads_somewhere(name: str) -> None:
    """What a document refers to is in the same document: no schema of AsyncAPI finds that by itself."""
    found = set(references(DOCUMENTS[name]))
    assert found or "campaign" not in name
    for target in found:
        place = DOCUMENTS[name]
        assert target.startswith("#/")
        for part in target.removeprefix("#/").split("/"):
            assert part in place, (target, part)
            place = place[part]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.removesuffix(".event.json"))
def test_each_sample_is_as_its_schema_says(path: Path) -> None:
    """The data of each sample fits the schema of its type, and does not with a field of another type, or without the
    thing that it is about.
    """
    event = sample(path)
    data = json.loads(event.data)
    judge = Draft202012Validator(SCHEMAS[event.type], format_checker=FormatChecker())
    judge.validate(data)
    about = event.type.split(".")[0]
    assert not judge.is_valid({**data, about: {**data[about], "id": 1}})
    assert not judge.is_valid({**data, about: {**data[about], "updated_at": "yesterday"}})
    assert not judge.is_valid({name: one for name, one in data.items() if name != about})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.removesuffix(".event.json"))
def test_each_record_has_the_headers_of_its_message(path: Path) -> None:
    """The headers of the record that the relay would publish fit their message, which names each of them; without a
    header that is always there they do not.
    """
    event = sample(path)
    record = to_record(LogEntry(position=3, event=event), LOG)
    headers = {name: value.decode() for name, value in record.headers}
    document = DOCUMENTS["asyncapi.json"]
    message = document["components"]["messages"][f"published.{event.type}"]
    judge = Draft202012Validator({**message["headers"], **document}, format_checker=FormatChecker())
    judge.validate(headers)
    known = document["components"]["schemas"]["Headers"]["properties"]
    assert headers.keys() <= known.keys()
    for name in headers.keys() - OPTIONAL:
        assert not judge.is_valid({other: value for other, value in headers.items() if other != name}), name
    assert not judge.is_valid({**headers, "ce_type": "pt.whatsms.other"})
    assert f"published.{event.type}" in str(document["channels"][record.topic]["messages"])


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.removesuffix(".event.json"))
def test_deliveries_of_the_documented_shape_are_as_asyncapi_says(path: Path) -> None:
    """A delivery in the shape of the vendor's page fits its message; those in other shapes are read all the same."""
    delivery = json.loads(path.with_name(path.name.replace(".event.json", ".json")).read_bytes())
    document = DOCUMENTS["asyncapi.json"]
    message = document["components"]["messages"][f"delivered.{sample(path).type}"]
    judge = Draft202012Validator({**message["payload"], **document})
    if path.name.count(".") == 3:  # the plain sample of a type
        judge.validate(delivery)
    assert not judge.is_valid({**delivery, "event": "other"})


def npm(folder: str, to: Path) -> Path:
    """Install what a folder's lock names; skip where there is no npm, or no registry."""
    if shutil.which("npm") is None:
        missing("npm is not installed, so AsyncAPI is not held to its published schema")
    shutil.copytree(NODE / folder, to)
    words = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    impatient = ("--fetch-retries=0", "--fetch-timeout=20000")  # npm would wait for minutes where there is no network
    try:
        subprocess.run([*words, *impatient], cwd=to, capture_output=True, timeout=120, check=True)
    except subprocess.SubprocessError:
        missing("npm cannot install, so AsyncAPI is not held to its published schema")
    return to


@pytest.mark.slow
def test_asyncapi_is_valid_to_its_published_schema(tmp_path: Path) -> None:
    """The schema of AsyncAPI 3.1 that its authors publish accepts the document, and not one with another action."""
    folder = npm("specs", tmp_path / "specs")
    schema = json.loads((folder / "node_modules/@asyncapi/specs/schemas/3.1.0-without-$id.json").read_bytes())
    judge = Draft7Validator(schema)
    document = copy.deepcopy(DOCUMENTS["asyncapi.json"])
    judge.validate(document)
    document["operations"]["receiveDelivery"]["action"] = "read"
    assert not judge.is_valid(document)


@pytest.mark.slow
@pytest.mark.skipif("WHATSMS_TEST_LONG" not in os.environ, reason="the parser takes half a minute to install")
def test_the_parser_of_asyncapi_has_no_complaint(tmp_path: Path) -> None:
    """AsyncAPI's own parser reads the document, and finds no error, no warning and nothing to hint at."""
    folder = npm("parser", tmp_path / "parser")
    (folder / "document.json").write_bytes(published()["asyncapi.json"])
    (folder / "read.mjs").write_text(
        'import fs from "node:fs";\nimport { Parser } from "@asyncapi/parser";\n'
        'const { document, diagnostics } = await new Parser().parse(fs.readFileSync("document.json", "utf8"));\n'
        "console.log(JSON.stringify([document?.version(), diagnostics.map((one) => one.message)]));\n"
    )
    done = subprocess.run(["node", "read.mjs"], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == ["3.1.0", []]


def test_a_route_that_nothing_describes_is_an_error() -> None:
    """A new route stops the making of the contracts, with the words that say where its description belongs."""
    prose = read_api_prose(READ_API)
    with pytest.raises(LookupError, match="GET /api/v1/new has no row in ANSWERS"):
        read_api([("GET", "/api/v1/new")], prose, version="1", url="/")
    with pytest.raises(LookupError, match=r"GET /livez has no row in docs/read-api\.md"):
        read_api([("GET", "/livez")], Prose({}, {}), version="1", url="/")
    page = READ_API.replace("`after`, `limit`, `entity`, `kind`", "`after`, `shade`")
    with pytest.raises(LookupError, match="the parameter shade of"):
        documents(page, EVENTS, prefix="w", private_url="/")
    with pytest.raises(LookupError, match="does not say what `cause` of Run is"):
        documents(READ_API.replace("| `cause` |", "| `why` |"), EVENTS, prefix="w", private_url="/")
    with pytest.raises(LookupError, match="ce_logid"):
        documents(READ_API, EVENTS.replace("| `ce_logid` |", "| `other` |"), prefix="w", private_url="/")


def test_every_route_is_in_the_document() -> None:
    """OpenAPI has exactly the routes that the private listener has; every one is a GET."""
    described = {
        (method.upper(), path)
        for path, operations in DOCUMENTS["openapi.json"]["paths"].items()
        for method in operations
    }
    assert described == set(private_routes())
