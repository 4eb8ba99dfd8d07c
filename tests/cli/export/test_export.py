"""`export`: a folder with all that is held of one person, whole or not at all, in which everything is only text."""

import json
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from servers import warm
from servers.people import ANA, ANAS, ANAS_NUMBER, FOR_EVER, NAMING_ANA, story
from servers.people import TENANT as STORYS_TENANT
from servers.service import SLUG, Service
from test_journey import get
from whatsms_events.cli.export.folder import Folder
from whatsms_events.cli.export.page import PersonPage
from whatsms_events.contracts.published import published
from whatsms_events.errors import ConfigError
from whatsms_events.web.export import SECTIONS

SCHEMA: Final = Draft202012Validator(json.loads(published()["person-export.json"]), format_checker=FormatChecker())
RUIS: Final = ("Rui", "ruis answer", "351910000900", "call ")
HEADING: Final = {"format": "x", "contact_ids": ["1"]}


class Parsed(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, str]] = set()
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements |= {(tag, name) for name, _ in attrs} or {(tag, "")}

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.text.append(data)


@pytest.mark.process
async def test_a_person_is_exported_beside_a_running_service(tmp_path: Path) -> None:
    """By id and by number, by the command and by the read API, it is the same: all that is hers, by the schema, and of
    others at most that they named her. Only its owner can read the folder.
    """
    service = Service(tmp_path / "service", settings={f"tenants.{SLUG}": {"tenant_id": STORYS_TENANT}, **FOR_EVER})
    async with story(f"sqlite:///{service.folder / 'log.db'}") as told:
        positions = told.positions
    await service.start()

    def ours(*words: str) -> Any:
        return warm.run(["export", "--config", str(service.config), *words], service.folder)

    said = ours("--contact", ANA, "--out", "ana", "--tenant", SLUG)
    assert said.returncode == 0, said.stderr
    assert ours("--contact", ANAS_NUMBER, "--out", "again").returncode == 0
    nobody = ours("--contact", "nobody", "--out", "nobody")
    assert (nobody.returncode, nobody.stderr.count("nothing is held")) == (1, 1)
    occupied = ours("--contact", ANA, "--out", "ana")
    assert (occupied.returncode, occupied.stderr.count("is there already and not empty")) == (2, 1)
    async with aiohttp.ClientSession() as session:
        asked = await get(session, service, f"/api/v1/{SLUG}/contacts/{ANA}/export")
    lines = service.lines()
    await service.stop()
    folder = service.folder / "ana"
    found = json.loads((folder / "person.json").read_text(encoding="utf-8"))
    again = json.loads((service.folder / "again" / "person.json").read_text(encoding="utf-8"))
    assert {**found, "made_at": 0} == {**again, "made_at": 0} == {**asked, "made_at": 0}
    SCHEMA.validate(found)
    assert {one["position"]: one["own"] for one in found["events"]} == {
        positions[name]: name in ANAS for name in (*ANAS, *NAMING_ANA)
    }
    assert [len(found[name]) for name in ("contacts", "tickets", "messages")] == [1, 1, 3]
    assert [len(found[name]) for name in ("parked_deliveries", "parked_events", "comparisons")] == [4, 1, 5]
    assert found["media_urls"] == ["https://m.example/ana.pdf"]
    assert (folder / "media_urls.txt").read_text() == "https://m.example/ana.pdf\n"
    page = (folder / "person.html").read_text(encoding="utf-8")
    for text in (page, json.dumps(found)):
        assert all(one in text for one in ("Ana Canario", ANAS_NUMBER, "anas secret", "dear ana", "anas words"))
        assert not [one for one in RUIS if one in text]
    assert not sorted(path.name for path in service.folder.iterdir() if path.name.startswith(".unfinished"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    (line,) = [one for one in lines if one["event"] == "personal.shown"]
    assert (line["kind"], line["subject"]) == ("export", ANA)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Nothing is at its place before it is finished; what a killed one left is removed; an empty folder is filled; and
    where somebody put something there meanwhile, that stays.
    """
    place, taken = tmp_path / "ana", tmp_path / "taken"
    (tmp_path / ".unfinished-ana").mkdir()
    (tmp_path / ".unfinished-ana" / "person.json").write_text("{")  # of one that was killed
    place.mkdir()
    folder = Folder(place)
    folder.begin(HEADING)
    folder.add("events", [{"position": 1, "data": {"thumbnailUrl": "https://m.example/1\n2"}}])
    assert list(place.iterdir()) == []
    assert folder.finish() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ana"]
    held = json.loads((place / "person.json").read_text(encoding="utf-8"))
    assert list(held) == [*HEADING, *SECTIONS, "media_urls"]
    assert held["media_urls"] == ["https://m.example/1\n2"]
    assert (place / "media_urls.txt").read_text(encoding="utf-8") == "https://m.example/1�2\n"
    late = Folder(taken)
    late.begin(HEADING)
    taken.mkdir()
    (taken / "x").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        late.finish()
    late.remove()
    assert [path.name for path in taken.iterdir()] == ["x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ana", "taken"]
    with pytest.raises(ConfigError, match="is there already and not empty"):
        Folder(taken)
    with pytest.raises(ConfigError, match="cannot be used"):
        Folder(tmp_path / "no" / "such")


HOSTILE: Final = (
    "<script>alert(1)</script>", "</td></table><img src=x onerror=1>", '" onload="x', "&lt;b&gt;", "<!--", "]]>",
    "\u202eevil", "javascript:alert(1)", "</style><style>*{}", "\x00", "<svg/onload=1>", "</pre>",
)  # fmt: skip
TEXTS = st.text() | st.sampled_from(HOSTILE)
VALUES = st.recursive(TEXTS | st.integers() | st.booleans(), lambda some: st.lists(some) | st.dictionaries(TEXTS, some))


@given(rows=st.lists(st.dictionaries(TEXTS, VALUES), max_size=3), urls=st.lists(TEXTS, max_size=3))
def test_whatever_somebody_wrote_is_only_text(rows: list[dict[str, Any]], urls: list[str]) -> None:
    """No value becomes an element, an attribute, a link or a change of direction, and the policy allows nothing."""
    written: list[str] = []
    page = PersonPage(written.append, HEADING)
    page.begin("messages")
    for row in rows:
        page.add("messages", row)
    page.end(urls)
    parsed = Parsed("".join(written))
    assert parsed.elements <= {
        ("html", "lang"), ("head", ""), ("meta", "charset"), ("meta", "http-equiv"), ("meta", "content"),
        ("meta", "name"), ("title", ""), ("style", ""), ("body", ""), ("h1", ""), ("h2", ""), ("p", ""), ("table", ""),
        ("tr", ""), ("th", "scope"), ("td", ""), ("pre", ""), ("ul", ""), ("li", ""), ("code", ""),
    }  # fmt: skip
    assert "\u202e" not in "".join(written)
    assert "\x00" not in "".join(written)


def test_a_hostile_text_is_shown_as_it_was_written() -> None:
    """What looks like markup is read as text, to the letter."""
    written: list[str] = []
    page = PersonPage(written.append, HEADING)
    page.add("messages", {"body": HOSTILE[0], "nested": {"x": HOSTILE[1]}})
    text = "".join(Parsed("".join(written)).text)
    assert HOSTILE[0] in text
    assert HOSTILE[1] in text
    assert "default-src 'none'" in written[0].replace("&#x27;", "'")
