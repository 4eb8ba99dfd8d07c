"""The contracts are for holders of the token, each with its media type; the page about them can do nothing."""

import re
from html import escape

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient

from web.listener import listener
from whatsms_events.contracts.published import published
from whatsms_events.contracts.reading import reading_page
from whatsms_events.web.documents import MEDIA_TYPES, ContractFiles

TOKEN = "token-of-the-tests"
HOSTILE = "<script>alert('x')</script>"


async def asked(
    aiohttp_client: AiohttpClient, path: str, token: str | None = TOKEN
) -> tuple[int, web.StreamResponse | dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    client = await aiohttp_client(listener(ContractFiles(published()), token=TOKEN))
    async with client.get(path, headers={} if token is None else {"Authorization": f"Bearer {token}"}) as answer:
        return answer.status, dict(answer.headers), await answer.read()


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("openapi.json", "application/vnd.oai.openapi+json;version=3.1"),
        ("vendor.openapi.json", "application/vnd.oai.openapi+json;version=3.1"),
        ("asyncapi.json", "application/vnd.aai.asyncapi+json;version=3.1.0"),
        ("message.received.schema.json", "application/schema+json"),
        ("style.css", "text/css; charset=utf-8"),
    ],
)
async def test_each_file_is_served_as_what_it_is(aiohttp_client: AiohttpClient, name: str, media_type: str) -> None:
    """The bytes are those that are shipped, with their media type, and no browser takes them for something else."""
    status, headers, body = await asked(aiohttp_client, f"/contracts/{name}")
    assert (status, body) == (200, published()[name])
    assert isinstance(headers, dict)
    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == (media_type, "nosniff")


def test_no_file_is_taken_for_a_schema_that_is_none() -> None:
    """Every file that has no media type of its own is a JSON Schema, and every name that has one is a file."""
    assert {name for name in published() if not name.endswith(".schema.json")} == MEDIA_TYPES.keys()


async def test_the_page_can_do_nothing(aiohttp_client: AiohttpClient) -> None:
    """The page has no script and no style of its own, its policy forbids all but our style, and each link leads to a
    file that is served.
    """
    status, headers, body = await asked(aiohttp_client, "/contracts")
    assert status == 200
    assert isinstance(headers, dict)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy)
    page = body.decode()
    assert not re.search(r"<script|<style|style=| on\w+=|javascript:", page)
    links = re.findall(r'(?:href|src)="([^"#]+)"', page)
    assert {link.removeprefix("contracts/") for link in links} == published().keys() - {"index.html"}
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert anchors
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


@pytest.mark.parametrize("path", ["/contracts", "/contracts/openapi.json", "/contracts/nothing"])
@pytest.mark.parametrize("token", [None, "another"])
async def test_nothing_is_shown_without_the_token(aiohttp_client: AiohttpClient, path: str, token: str | None) -> None:
    """Without the right token every path is 401, also one where nothing is."""
    assert (await asked(aiohttp_client, path, token))[0] == 401


@pytest.mark.parametrize("path", ["/contracts/nothing", "/contracts/..%2Fpublished.py", "/contracts/%00"])
async def test_what_is_no_file_is_not_found(aiohttp_client: AiohttpClient, path: str) -> None:
    """Only the names of the files lead somewhere: no path is ever opened."""
    assert (await asked(aiohttp_client, path))[0] == 404


def test_whatever_a_document_says_is_text_on_the_page() -> None:
    """Names and sentences of the documents are escaped, wherever they stand."""
    schema = {
        "description": HOSTILE,
        "properties": {HOSTILE: {"type": HOSTILE, "description": HOSTILE}, "a": {"$ref": f"#/$defs/{HOSTILE}"}},
        "$defs": {HOSTILE: {"description": f"`{HOSTILE}`", "properties": {"b": {"const": HOSTILE}}}},
    }
    page = reading_page(
        {
            "asyncapi.json": {
                "info": {"description": HOSTILE},
                "channels": {"x": {"address": HOSTILE, "messages": {HOSTILE: {}}}},
                "components": {"schemas": {"Headers": schema}},
            },
            "openapi.json": {"info": {}, "paths": {HOSTILE: {"get": {"description": HOSTILE}}}},
            f"{HOSTILE}.schema.json": schema,
        }
    )
    assert "<script" not in page
    assert page.count(escape(HOSTILE)) > 10
