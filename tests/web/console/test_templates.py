"""Whatever somebody wrote stands on a page as text: no markup, no script, no link to anything but http and https."""

from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from servers.examples import examples
from web.console.hostile import CONTEXTS, ELSEWHERE, LARGE, NOW, PARTS
from web.console.pages import TENANTS
from web.listener import asking
from whatsms_events.domain.scopes import SCOPES
from whatsms_events.web.access import Holder
from whatsms_events.web.console.assets import shipped_assets
from whatsms_events.web.console.frame import Frame, Visit
from whatsms_events.web.console.rendering import FOLDER, TEXT_LIMIT, environment, rendered, safe_url, stacked
from whatsms_events.web.console.sessions import Sessions

MADE = environment(shipped_assets())
FRAME = Frame(Sessions(asking(), now=lambda: NOW), shipped_assets(), TENANTS, now=lambda: NOW)
LINKS = (("Now", "/"),)
VISIT = Visit(FRAME, make_mocked_request("GET", "/"), Holder("tests", SCOPES), "mark", NOW)

EVIL = (
    "<script>evil()</script>",
    '"><img src=x onerror=evil()>',
    "' onmouseover='evil()",
    "javascript:evil()",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "</title></textarea><svg onload=evil()>",
    "\u202eevil\u202c",
    "&lt;b&gt;",
    "<!--",
    "]]>",
    "\ud800",
    "\0",
    "a\nb\r\nSet-Cookie: evil=1",
    "//evil.example",
    "data:text/html,evil",
)

TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "link",
        "script",
        "body",
        "header",
        "nav",
        "main",
        "footer",
        "section",
        "article",
        "div",
    ),
    *("h1", "h2", "h3", "p", "a", "ul", "ol", "li", "dl", "dt", "dd", "span", "bdi", "strong", "small", "br", "code"),
    *("pre", "time", "form", "input", "label", "button", "select", "option", "table", "caption", "thead", "tbody"),
    *("tr", "th", "td", "figure", "figcaption", "svg", "line", "rect", "noscript"),
}
"""Every element that our own templates have; add one where a page needs it."""


class Reader(HTMLParser):
    """Collects what a browser would find."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.words += data


def read(template: str, text: str, visit: Visit = VISIT, **more: Any) -> Reader:
    """Render a template with a text wherever there can be one, and read it."""
    known = {"visit": visit, "links": LINKS, "here": "/", "said": text}
    reader = Reader()
    reader.feed(rendered(MADE, template, {**known, **CONTEXTS[template](text), **more}).decode())
    return reader


def check(reader: Reader) -> None:
    """Assert that the page has our own elements alone, and leads to us, or to http and https."""
    assert reader.tags <= TAGS, reader.tags - TAGS
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", tag
        if name in ("href", "src", "action", "hx-get", "hx-post"):
            assert value.startswith(("/", "#", "http://", "https://")), (tag, name, value)
            assert tag == "a" or not value.startswith(("http:", "https:", "//")), (tag, name, value)


def test_every_template_is_tried() -> None:
    """A new template has its row among those that are rendered with hostile values."""
    assert {path.name for path in FOLDER.glob("*.html")} <= set(CONTEXTS) | PARTS | ELSEWHERE


@pytest.mark.parametrize("template", CONTEXTS)
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.lists(st.sampled_from(EVIL) | st.text(min_size=1, max_size=40), min_size=1, max_size=4).map("".join))
def test_hostile_values_are_text(template: str, text: str) -> None:
    """Markup, scripts, quotes, template code, controls and half surrogates in any value change no element of a page."""
    check(read(template, text))


@pytest.mark.parametrize("template", sorted(LARGE))
def test_a_text_of_ten_megabytes_is_cut(template: str) -> None:
    """A page stays small whatever a value has, and says where it was cut."""
    text = "<b>x</b> " * 1_200_000
    known = {"visit": VISIT, "links": LINKS, "here": "/", "said": "", **LARGE[template](text)}
    page = rendered(MADE, template, known)
    assert len(page) < 100 * TEXT_LIMIT
    assert b"cut here" in page


def test_without_the_scope_nothing_personal_is_in_a_page() -> None:
    """Who has no scope `personal` sees the word "hidden" in the place of a value, and the value is nowhere."""
    blind = replace(VISIT, holder=Holder("reader", frozenset({"read"})))
    template = "repair_difference.html"
    seen = read(template, "João", visit=blind)
    assert seen.words.count("hidden") == 2
    context: Mapping[str, Any] = CONTEXTS[template]("x")
    fields = [replace(one, before="Maria", after="José") for one in context["difference"].value.fields if one.personal]
    found = replace(context["difference"], value=replace(context["difference"].value, fields=fields))
    words = read(template, "x", visit=blind, difference=found).words
    assert "Maria" not in words
    assert "José" not in words
    assert "Maria" in read(template, "x", difference=found).words


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", " javascript:alert(1)", "JAVASCRIPT:x", "data:text/html,x", "//evil.example/x", "/x"),
        *("http://", "https:evil", "ftp://x/y", "http://[", "https://x/ y", "https://x/\u202ey", "https://x/\0"),
        *(None, 7, "https://x/" + "y" * 3000),
    ],
)
def test_only_http_and_https_are_links(url: object) -> None:
    """What else somebody wrote as a URL is shown, and leads nowhere."""
    assert safe_url(url) is None


def test_a_url_of_the_vendor_is_a_link() -> None:
    """A URL as the vendor sends it is one."""
    url = "https://media.whatsms.example/a.jpg?sig=x%20y&e=1"
    assert safe_url(url) == url


def test_each_cell_of_a_row_knows_its_column() -> None:
    """By the place at which it stands; one that goes across several has no name, and what a person wrote is no cell."""
    heads = ["Who", "#Count", '<"of all">']
    text = Markup("<tr><th scope='row'>{}</th><td class='n'>1</td><td>2</td></tr>\n").format("<td>a</td>")
    rows = text + Markup('<tr><td colspan="3">None.</td></tr>')
    assert stacked(rows, heads) == (
        '<tr role="row"><th role="rowheader" data-head="Who" scope=\'row\'>&lt;td&gt;a&lt;/td&gt;</th>'
        '<td role="cell" data-head="Count" class=\'n\'>1</td>'
        '<td role="cell" data-head="&lt;&#34;of all&#34;&gt;">2</td></tr>\n'
        '<tr role="row"><td role="cell" colspan="3">None.</td></tr>'
    )
