"""Write docs/reference from the code: settings, metrics, commands, log lines and event types. `make docs` runs this.

What the pages say stands in the code and in `config/default.toml`; a test fails where a page is stale. The contracts
for machines (JSON Schema, AsyncAPI, OpenAPI) are written too, into the package itself.
"""

import ast
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import cyclopts
import msgspec
from prometheus_client import Counter, Gauge, Histogram, Info
from rich.console import Console

import whatsms_events
from whatsms_events import metrics
from whatsms_events.cli.app import app
from whatsms_events.config.settings import Kafka, Private
from whatsms_events.contracts.documents import contract_files, documents
from whatsms_events.domain.events import OURS, SHAPES, EventType, entity
from whatsms_events.lines import LINES

DOCS: Final = Path(__file__).resolve().parent
PACKAGE: Final = Path(whatsms_events.__file__).parent
MADE: Final = "<!-- Made by `make docs` from the code. Change it there. -->"
NONE: Final = "\N{EN DASH}"
WIDTH: Final = 110
KINDS: Final[Mapping[type, str]] = {
    Counter: "counter",
    Gauge: "gauge",
    Histogram: "histogram",
    metrics.BulkHistogram: "histogram",
    Info: "info",
}


def settings_page() -> str:
    """Return every setting with its default and its sentence, as `config/default.toml` has them."""
    lines = [
        "Every setting with its default. `##` marks settings that have none: the value is an example.",
        "How settings are given, and which source goes over which: [Configure](../configure.md).",
    ]
    about: list[str] = []
    for line in (DOCS.parent / "config" / "default.toml").read_text(encoding="utf-8").splitlines():
        if section := re.fullmatch(r"(?:##)?\[([\w.]+)\]", line):
            lines += ["", f"## {section[1]}", "", *_introduction(about), *_head("setting", "default", "meaning")]
            about = []
        elif setting := re.fullmatch(r"(##?)([a-z_]+) = (.*)", line):
            if len(lines) == 2:  # those two sentences: settings above every section
                lines += ["", *_head("setting", "default", "meaning")]
            default = f"`{setting[3]}`" if setting[1] == "#" else f"{NONE} (`{setting[3]}`)"
            lines.append(_row(f"`{setting[2]}`", default, " ".join(about)))
            about = []
        elif line.startswith("# "):
            about.append(line.removeprefix("# "))
        else:
            about = []
    return _page("Settings", lines)


def _introduction(about: list[str]) -> list[str]:
    return [" ".join(about), ""] if about else []


def metrics_page() -> str:
    """Return every metric with its labels and what its value means."""
    lines = [
        "`/metrics` on the private listener shows them. Labels come from closed sets only.",
        "",
        *_head("metric", "kind", "labels", "what it means"),
    ]
    for metric in vars(metrics).values():
        if kind := KINDS.get(type(metric)):
            suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
            labels = ", ".join(f"`{label}`" for label in metric._labelnames) or NONE
            lines.append(_row(f"`{metric._name}{suffix}`", kind, labels, metric._documentation))
    return _page("Metrics", lines)


def commands_page() -> str:
    """Return the help of every command, as the terminal shows it."""
    lines = ["What each command says of itself with `--help`. The exit status is 0 where it did what it was asked to."]
    for words in commands(app):
        lines += ["", f"## whatsms-events {' '.join(words)}", "", "```", *_help(words), "```"]
    return _page("Commands", lines)


def commands(app: cyclopts.App, above: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Yield the words of every command that does something."""
    for name in app:
        if not name.startswith("-"):
            nested = list(commands(app[name], (*above, name)))
            yield from nested or [[*above, name]]


def _help(words: list[str]) -> list[str]:
    text = io.StringIO()
    app.help_print(words, console=Console(file=text, width=WIDTH, color_system=None, force_terminal=False))
    return [line.rstrip() for line in text.getvalue().strip().splitlines()]


def log_lines_page() -> str:
    """Return every log line with its level, its facts and what it asks of the reader."""
    lines = [
        "One JSON object a line on standard error: `timestamp` (ISO 8601, UTC), `level`, `event` and the facts below.",
        "info: it happened. warning: something was refused or parked. error: a person must act.",
        "",
        *_head("event", "level", "facts", "what it means"),
    ]
    found = logged()
    for name, meaning in sorted(LINES.items()):
        levels, facts = found.get(name, (set(), set()))
        shown = ", ".join(f"`{fact}`" for fact in sorted(facts)) or NONE
        lines.append(_row(f"`{name}`", ", ".join(sorted(levels)), shown, meaning))
    return _page("Log lines", lines)


@cache
def logged() -> Mapping[str, tuple[set[str], set[str]]]:
    """Return each log line of the code: its levels and the names of its facts."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=func, args=[*_, ast.Constant(value=str(name))]) if said := _levels(func):
                    levels, facts = found.setdefault(name, (set(), set()))
                    levels |= said
                    facts |= {one.arg for one in node.keywords if one.arg and one.arg != "exc_info"}
    return found


def _levels(func: ast.expr) -> set[str]:
    """Return the levels at which a call logs; none where it does not log. `log.log` is for what a library says."""
    calls = {node for node in ast.walk(func) if isinstance(node, ast.Attribute)}
    named = {one.attr for one in calls if isinstance(one.value, ast.Name) and one.value.id in ("log", "_log")}
    return {"warning", "error"} if named == {"log"} else named & {"debug", "info", "warning", "error", "critical"}


def event_types_page() -> str:
    """Return every event type with its subject, and every field of the four kinds of data."""
    lines = [
        "Every event is one of these types. `data` has the fields below. A field that the vendor did not send is",
        "absent, one that was sent as null is null. Times are ISO 8601 in UTC; ids are opaque text.",
        "",
        *_head("type", "about", "told by"),
    ]
    ours = {one: "the command `forget`" if one is EventType.CONTACT_FORGOTTEN else "a backfill" for one in OURS}
    told_by = {one: ours.get(one, "a webhook") for one in EventType}
    lines += [_row(f"`{one.value}`", entity(one), teller) for one, teller in told_by.items()]
    done: set[str] = set()
    for name, shape in SHAPES.items():
        lines += ["", f"## Data of {name} events", "", *_fields(shape, done)]
    return _page("Event types", lines)


def _fields(shape: type[msgspec.Struct], done: set[str]) -> Iterator[str]:
    """Yield the table of a struct's fields, and below it those of the structs in it that no page has yet."""
    yield from [inspect.cleandoc(shape.__doc__ or ""), "", *_head("field", "type")]
    nested = []
    for field in msgspec.structs.fields(shape):
        if inner := _struct(field.type):
            nested.append(inner)
        yield _row(f"`{field.encode_name}`", _type(field.type))
    for inner in nested:
        if inner.__name__ not in done:
            done.add(inner.__name__)
            yield from ["", f"### {inner.__name__}", "", *_fields(inner, done)]


def _struct(hint: Any) -> type[msgspec.Struct] | None:
    parts = get_args(hint) or (hint,)
    return next((one for one in parts if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)


def _type(hint: Any) -> str:
    """Return a field's type in words."""
    if get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        return _type(get_args(hint)[0])
    if parts := [part for part in get_args(hint) if part is not msgspec.UnsetType]:
        if get_origin(hint) is list:
            return "list"
        if get_origin(hint) is dict:
            return "object"
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    names: Mapping[str, str] = {"str": "text", "int": "integer", "bool": "true or false", "datetime": "time",
                                "NoneType": "null"}  # fmt: skip
    return names.get(hint.__name__, hint.__name__)


def contracts() -> dict[Path, bytes]:
    """Return every file of the contracts by its place in the package."""
    kafka, private = Kafka(), Private()
    made = documents(
        (DOCS / "read-api.md").read_text(encoding="utf-8"),
        (DOCS / "events-and-kafka.md").read_text(encoding="utf-8"),
        prefix=kafka.topic_prefix,
        private_url=f"http://{private.host}:{private.port}",
    )
    return {PACKAGE / "contracts" / "made" / name: held for name, held in contract_files(made).items()}


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*["---"] * len(cells))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _page(title: str, lines: list[str]) -> str:
    return "\n".join([f"# {title}", "", MADE, "", *lines]) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings": settings_page,
    "metrics": metrics_page,
    "commands": commands_page,
    "log-events": log_lines_page,
    "event-types": event_types_page,
}


def main() -> None:
    """Write every page, and say which ones changed."""
    for name, page in PAGES.items():
        path, text = DOCS / "reference" / f"{name}.md", page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(DOCS.parent)}\n")
    made = contracts()
    for path, held in made.items():
        if not path.exists() or path.read_bytes() != held:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(held)
            sys.stdout.write(f"wrote {path.name} of the contracts\n")
    for path in next(iter(made)).parent.iterdir():
        if path not in made:
            path.unlink()
            sys.stdout.write(f"removed {path.name} of the contracts\n")


if __name__ == "__main__":
    main()
