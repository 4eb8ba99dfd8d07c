"""Renders the templates: what stands in a page is text unless a template says otherwise, and a name must be known.

jinja2 is used alone: what aiohttp-jinja2 (last release 2023) adds are decorators for handlers, and pages here are made
in one place, `frame`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.personal import HIDDEN
from whatsms_events.web.console import charts
from whatsms_events.web.console.assets import Assets
from whatsms_events.web.console.reasons import why

FOLDER: Final = Path(__file__).with_name("templates")
TEXT_LIMIT: Final = 2000
"""Characters of one text on a page: a message may have many MiB, and a page of them would stop a browser."""

URL_LIMIT: Final = 2000
CLOCKS_S: Final = 5.0
"""Another machine's clock may be ahead of ours by so much: a time within that is shown as now, not as in the future."""


_CELL: Final = re.compile(r"<(tr|th|td)(?=[\s>])( colspan)?")


@cache
def environment(assets: Assets) -> Environment:
    """Return what renders the templates of this package, the same for the same assets: they are compiled once."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "age": age,
        "when": when,
        "count": count,
        "text": text,
        "lasting": lasting,
        "utc": utc,
        "micros": to_micros,
        "why": why,
        "stacked": stacked,
    }
    made.filters["urlencode"] = in_url
    made.globals |= {"asset": assets.__getitem__, "safe_url": safe_url, "charts": charts, "personal": personal}
    return made


def text(value: object, limit: int = TEXT_LIMIT) -> Markup:
    """Return a text that somebody else wrote, as text: cut, and kept from turning the line around (right to left)."""
    whole = "" if value is None else str(value)
    shown = Markup("<bdi>{}</bdi>").format(whole[:limit])
    if len(whole) <= limit:
        return shown
    return shown + Markup(' <span class="cut">… cut here, it has {} characters</span>').format(count(len(whole)))


@pass_context
def personal(context: Context, value: object, limit: int = TEXT_LIMIT) -> Markup:
    """Return a text, name or number of a person, or the word "hidden" where the one who looks may not see it."""
    if value is None or value == "":
        return Markup('<span class="none">none</span>')
    if not context["visit"].may("personal"):
        return Markup('<span class="hidden-value">{}</span>').format(HIDDEN)
    return text(value, limit)


def stacked(rows: Markup, heads: Sequence[str]) -> Markup:
    """Return the rows of a table with the name of its column at each cell, by which a narrow screen shows it as a list.

    The roles say that it is a table all the same: some browsers forget it where the cells do not stand side by side.
    """
    column = 0

    def named(found: re.Match[str]) -> str:
        nonlocal column
        tag, across = found.groups(default="")
        if tag == "tr":
            column = 0
            return '<tr role="row"'
        head = heads[column].removeprefix("#") if column < len(heads) else ""
        column += 1
        name = Markup(' data-head="{}"').format(head) if head and not across else ""
        return f'<{tag} role="{"rowheader" if tag == "th" else "cell"}"{name}{across}'

    return Markup(_CELL.sub(named, rows))  # noqa: S704 - what stands in the rows is markup already


def in_url(value: object) -> str:
    """Return a value as a part of a URL; what UTF-8 cannot hold becomes a question mark, as it does on the page."""
    return quote(str(value).encode("utf-8", "replace"), safe="")


def safe_url(value: object) -> str | None:
    """Return a URL that a link may have: http or https with a host; None for whatever else somebody wrote there."""
    if not isinstance(value, str) or len(value) > URL_LIMIT:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    fine = parts.scheme in ("http", "https") and parts.netloc and value.isprintable() and " " not in value
    return value if fine else None


def count(value: float | None) -> str:
    """Return a number with its thousands apart."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")  # noqa: RUF001 - a dash


def lasting(seconds: float | None) -> str:
    """Return a duration in one or two words, as a person would say it."""
    if seconds is None:
        return "unknown"
    whole = max(0, int(seconds))
    if 0 < seconds < 1:
        return "less than 1 s"
    for unit, size, lesser, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if lesser and rest else "")
    return f"{whole} s"


def utc(at: datetime) -> str:
    """Return a time as it is written in logs."""
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


@pass_context
def age(context: Context, at: datetime | None) -> Markup:
    """Return how long ago that was, with the time itself for whoever wants it."""
    if at is None:
        return Markup('<span class="none">never</span>')
    ago = (context["visit"].now - at).total_seconds()
    words = f"{lasting(ago)} ago" if ago > -CLOCKS_S else f"in {lasting(-ago)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), utc(at), words)


def when(at: datetime | None) -> Markup:
    """Return a time of day and a date, in UTC."""
    if at is None:
        return Markup('<span class="none">unknown</span>')
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), utc(at))


def rendered(made: Environment, name: str, values: Mapping[str, Any]) -> bytes:
    """Return a page. What UTF-8 cannot hold, such as half a surrogate pair in raw bytes, becomes a question mark."""
    return made.get_template(name).render(values).encode("utf-8", "replace")
