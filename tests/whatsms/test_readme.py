"""The page about the client: its examples run as they stand, and what it names exists."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

import whatsms_events.whatsms
from whatsms.vendor import KEY, Answers, Say, Seen, html, say, serving
from whatsms_events import errors
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Limits

PAGE = Path(whatsms_events.whatsms.__file__).with_name("README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
NAMES = ["Ana Silva", "Rui Silva", "Zé Silva"]


def everyday(seen: Seen) -> Say:
    """Answer the first example."""
    ticket = {"id": "t1", "status": "open", "channel": "sms", "contact": {"id": "c1", "name": "Ana"}}
    return {
        ("GET", "/tickets"): say({"tickets": [ticket], "count": 1, "hasMore": False}),
        ("POST", "/tickets"): say({"ticket": {"id": "t2"}}, 201),
        ("POST", "/tickets/t2/messages"): say({"message": {"id": "m1", "ack": 1}}, 201),
        ("PUT", "/tickets/t2"): say({"ticket": {"id": "t2", "status": "closed"}}),
    }[seen.method, seen.path]


def failing(seen: Seen) -> Say:
    """Answer the second example."""
    return html(502) if seen.method == "POST" else say({"error": "Contacto não encontrado"}, 404)


def paged(seen: Seen) -> Say:
    """Answer the third example."""
    first = 2 * (int(seen.query["page"]) - 1)
    items = [{"id": name, "name": name} for name in NAMES[first : first + 2]]
    date = "Thu, 15 Jan 2026 10:30:00 GMT"
    return say({"contacts": items, "count": 3, "hasMore": first == 0}, Date=date)


@pytest.mark.parametrize(
    ("example", "answers", "shown"),
    [
        (0, everyday, ["t1 sms Ana", "sent m1 ack 1"]),
        (
            1,
            failing,
            [
                "GET /contacts/{id}: 404 - Contacto não encontrado",
                "POST /tickets/{id}/messages: 502; it may have happened",
            ],
        ),
        (2, paged, ["['Ana Silva', 'Rui Silva'] of 3 as of 2026-01-15 10:", "['Zé Silva']"]),
    ],
)
async def test_each_example_runs_as_it_stands(example: int, answers: Answers, shown: list[str]) -> None:
    """A copy of the block, with URL and key in the environment, prints what it says it does."""
    async with serving(answers) as vendor:
        environment = os.environ | {"WHATSMS_URL": vendor.url, "WHATSMS_API_KEY": KEY, "PYTHONIOENCODING": "utf-8"}
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", EXAMPLES[example]),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, complaints = await program.communicate()
    assert (program.returncode, complaints.decode()) == (0, "")
    lines = out.decode().splitlines()
    assert [line[: len(start)] for line, start in zip(lines, shown, strict=True)] == shown


def test_every_example_is_run() -> None:
    """The list above is the page's."""
    assert len(EXAMPLES) == 3


def test_what_the_page_names_exists() -> None:
    """Each method in the table is the client's and the other way round; each error is one of ours."""
    client = Client("https://x", "k", limits=Limits())
    rows = re.findall(r"^\| `client\.([a-z]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    for name, methods in rows:
        endpoint = getattr(client, name)
        public = {method for method in vars(type(endpoint)) if not method.startswith("_")}
        assert set(re.findall(r"`([a-z]+)`", methods)) == public
    assert {name for name, _ in rows} == {name for name in vars(client) if not name.startswith("_")}
    upstream = {name for name in vars(errors) if name.startswith("Upstream")} - {"UpstreamError"}
    assert set(re.findall(r"`(Upstream[A-Za-z]+)`", PAGE)) == upstream
