"""The page about the contracts for people, as HTML without a script: events and their fields, topics, paths."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from whatsms_events.domain.bodies import JsonObject

STYLE: Final = """\
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
code { font-family: ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; width: 100%; }
th, td { border-bottom: 1px solid #8884; padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8bf; } }
"""


def reading_page(documents: Mapping[str, JsonObject]) -> str:
    """Return the page about these documents, which are beside it under their names."""
    title = "Contracts of whatsms-events"
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        '<link rel="stylesheet" href="contracts/style.css">',
        f"<h1>{escape(title)}</h1>",
        *_list(documents),
        *_topics(documents["asyncapi.json"]),
        *_paths(documents["openapi.json"]),
        *_events(documents),
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _list(documents: Mapping[str, JsonObject]) -> Iterator[str]:
    yield "<h2>Documents</h2>"
    rows = []
    for name, document in documents.items():
        about = document.get("info", document)
        link = f'<a href="contracts/{escape(name, quote=True)}">{escape(name)}</a>'
        rows.append((link, _text(about.get("description", ""))))
    yield from _table(("file", "what it describes"), rows)


def _topics(document: JsonObject) -> Iterator[str]:
    yield "<h2>Topics and webhook</h2>"
    rows = [
        (_code(channel["address"]), ", ".join(_code(name) for name in channel["messages"]))
        for channel in document["channels"].values()
    ]
    yield from _table(("address", "messages"), rows)
    headers = document["components"]["schemas"]["Headers"]
    yield "<h2>Headers of a record</h2>"
    yield from _fields(headers)


def _paths(document: JsonObject) -> Iterator[str]:
    yield "<h2>Paths of the private listener</h2>"
    rows = [
        (_code(f"{method.upper()} {path}"), _text(operation["description"]))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    yield from _table(("path", "what it answers"), rows)


def _events(documents: Mapping[str, JsonObject]) -> Iterator[str]:
    shown: set[str] = set()
    yield "<h2>Data of events</h2>"
    for name, document in documents.items():
        if not name.endswith(".schema.json"):
            continue
        yield f"<h3>{_code(name.removesuffix('.schema.json'))}</h3>"
        yield from _fields(document)
        for inner, schema in document["$defs"].items():
            if inner not in shown:
                shown.add(inner)
                yield f'<h3 id="{escape(inner, quote=True)}">{escape(inner)}</h3>'
                yield f"<p>{_text(schema['description'])}</p>"
                yield from _fields(schema)


def _fields(schema: JsonObject) -> Iterator[str]:
    needed = schema.get("required", ())
    rows = [
        (
            _code(name),
            _type(inner),
            "always" if name in needed else "",
            _text(inner.get("description", "")) + (" Personal." if inner.get("x-personal") else ""),
        )
        for name, inner in schema["properties"].items()
    ]
    yield from _table(("field", "type", "there", "meaning"), rows)


def _type(schema: Any) -> str:
    """Return a type in words."""
    match schema:
        case {"$ref": str(target)}:
            name = escape(target.rpartition("/")[2], quote=True)
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": list(alternatives)}:
            return " or ".join(_type(one) for one in alternatives)
        case {"const": value}:
            return _code(str(value))
        case {"type": str() | list() as kind}:
            kinds = [kind] if isinstance(kind, str) else kind
            form = {"date-time": "time", "uuid": "UUID"}.get(schema.get("format", ""))
            return escape(" or ".join(form if form and one == "string" else str(one) for one in kinds))
        case _:
            return "anything"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    # A table that is wider than the screen scrolls by itself, also by the keyboard.
    yield f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(", ".join(head), quote=True)}">'
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    yield f"<table><tr>{heads}</tr>"
    for row in rows:
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    yield "</table></div>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _text(text: str) -> str:
    """Return a sentence with what stands between backticks as code."""
    parts = text.split("`")
    return "".join(_code(part) if number % 2 else escape(part) for number, part in enumerate(parts))
