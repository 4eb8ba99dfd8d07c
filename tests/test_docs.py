"""The documentation, held to the code."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import cyclopts
import pytest
from prometheus_client import Counter, Gauge, Histogram, Info

import whatsms_events
from whatsms_events import cli, config, metrics
from whatsms_events.domain.events import EventType
from whatsms_events.domain.records import TOPICS, KafkaRecord, to_record
from whatsms_events.domain.signature import REASONS
from whatsms_events.errors import SignatureError
from whatsms_events.settings import Settings
from whatsms_events.storage.committer import Outcome
from whatsms_events.web import api, app, receiver
from whatsms_events.web.health import Health

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULTS = (ROOT / "config" / "default.toml").read_text(encoding="utf-8")
PACKAGE = Path(whatsms_events.__file__).parent
NONE = "\N{EN DASH}"
KINDS = (Counter, Gauge, Histogram, Info)


def scraped() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """List every metric by the name it is scraped under, with its text and its labels."""
    for metric in vars(metrics).values():
        if isinstance(metric, KINDS):
            suffix = {Counter: "_total", Info: "_info"}.get(type(metric), "")
            yield metric._name + suffix, metric._documentation, metric._labelnames


def section(title: str, end: str = "\n## ") -> str:
    """Return what README says under a title."""
    assert README.count(title) == 1, title
    return README.split(title)[1].split(end)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without heads."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return [row for row, following in zip(cells, [*cells[1:], ["-"]], strict=True) if "---" not in (row + following)]


def commands(app: cyclopts.App, prefix: str = "") -> list[str]:
    """List every command as it is typed."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        sub = app[name]
        nested = commands(sub, f"{prefix}{name} ")
        found += nested or [f"{prefix}{name}"]
    return found


@pytest.mark.parametrize(("name", "meaning", "labels"), list(scraped()), ids=[name for name, *_ in scraped()])
def test_each_metric_is_documented_with_its_meaning(name: str, meaning: str, labels: tuple[str, ...]) -> None:
    """README has a row for the metric with exactly the labels and the text that /metrics shows; it has our prefix."""
    assert name.startswith("whatsms_events_")
    assert [f"`{name}`", ", ".join(labels) or NONE, meaning] in rows(section("\n## Metrics\n"))


def test_no_metric_is_documented_that_does_not_exist() -> None:
    """Every metric that README names is one of the code's."""
    named = set(re.findall(r"`(whatsms_events_[a-z_]+)`", README))
    assert named <= {name for name, *_ in scraped()}


@pytest.mark.parametrize("name", commands(cli.app))
def test_each_command_is_documented(name: str) -> None:
    """README has a row for the command that says what it does."""
    assert [f"`{name}`"] in [row[:1] for row in rows(section("\n## Commands\n")) if row[1]]


def test_no_command_is_documented_that_does_not_exist() -> None:
    """Every row of README's commands is a command."""
    assert {row[0].strip("`") for row in rows(section("\n## Commands\n"))} == set(commands(cli.app))


def test_commands_are_found() -> None:
    """The walk over the commands sees them, so the test above tests something."""
    assert {"serve", "demo", "config check", "db upgrade", "topics create", "parked retry"} <= set(commands(cli.app))


@pytest.mark.parametrize("event_type", EventType)
def test_each_event_type_is_documented(event_type: EventType) -> None:
    """README's table of events names it."""
    assert f"`{event_type}`" in README


def log_events() -> set[str]:
    """List the names of our log lines."""
    texts = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    return {name for text in texts for name in re.findall(r"\blog\.\w+\(\s*\"([a-z_.]+)\"", text)}


def test_settings_that_are_named_exist() -> None:
    """Every section.setting that README names is a field of Settings."""
    sections = {name for name, field in Settings.model_fields.items() if hasattr(field.annotation, "model_fields")}
    known = {".".join(name) for name, _value, _origin in config.describe(config.load(environ={}))}
    others = {f"{Settings().kafka.topic_prefix}.{suffix}" for suffix in TOPICS} | log_events()
    for section, name in re.findall(r"`([a-z_]+)\.([a-z_]+)`", README):
        if section in sections and f"{section}.{name}" not in others:
            assert f"{section}.{name}" in known


def test_headers_of_a_record_are_documented() -> None:
    """README lists every header that a record can have."""
    from domain.test_records import LOG_ID, entry_of

    record: KafkaRecord = to_record(entry_of(), LOG_ID)
    for header, _value in record.headers:
        assert f"`{header}`" in README


def test_files_that_are_named_exist() -> None:
    """Paths in README and the map in the package's docstring lead somewhere."""
    for path in re.findall(r"`((?:config|deploy|tests|src|bench)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


def test_make_commands_of_the_readme_exist() -> None:
    """Every `make` target that README names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)\b(?=[ `\n])", README):
        if target in {"run", "test", "lock", "lint", "format", "clean"}:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def outcomes() -> dict[str, int]:
    """Return the status of every outcome that a delivery can have, as the code's tables say."""
    kinds = dict.fromkeys(get_args(Outcome.__annotations__["kind"]), 200) | {"parked": 202}
    refused = {f"signature_{reason}": SignatureError for reason in REASONS} | {
        name: kind for kind, name in receiver._REFUSALS
    }
    ours = {
        name: next((s for known, s in app.STATUSES if issubclass(kind, known)), 0) for name, kind in refused.items()
    }
    # What reaches no route: `Connection.handle_error` answers the one, and the other not at all.
    kinds |= {"failed": 500, "unparsable": 400, "leftover": 0}
    return kinds | {name: ours[name] or vars(kind)["status_code"] for name, kind in refused.items()}


def test_every_answer_of_the_door_is_documented() -> None:
    """README's table of what the door answers has every outcome with its status, and no other."""
    documented = {
        outcome: 0 if row[1].startswith("none") else int(row[1][:3])
        for row in rows(section("**What the door answers**", "**The event's id**"))
        for outcome in re.findall(r"`([a-z_]+)`", row[2])
    }
    assert documented == outcomes()


def routes() -> set[str]:
    """List every path of the private listener, its placeholders without their patterns."""
    nothing: Any = None
    parts = (api.Api(nothing, {}, None, nothing), Health(checks={}, details=dict, draining=lambda: False))
    found = {getattr(route, "path", "") for part in parts for route in part.routes()}
    return {re.sub(r"\{(\w+):[^}]+\}", r"{\1}", path) for path in found}


def test_every_route_is_documented() -> None:
    """README's tables name each path of the private listener and no other, and each filter of a list."""
    text = "".join("".join(row[:1]) for row in rows(section("\n## Read API\n")))
    documented = {path.split("?")[0] for path in re.findall(r"`(/[^`]+)`", text)}
    assert documented == routes()
    for resource, filters in api._FILTERS.items():
        for name in filters:
            assert re.search(rf"/{resource}` [^|,]*`[?&]{name}=|/{resource}` \([^)]*`[?&]{name}=", text), name


def test_blocks_of_toml_load(tmp_path: Path) -> None:
    """What README shows as TOML is a configuration that loads."""
    blocks = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        settings = config.load(path, environ={})
        assert any(origin == "file" for _name, _value, origin in config.describe(settings))


def test_five_lines_of_real_use_make_a_configuration(tmp_path: Path) -> None:
    """The lines under "Use it" that write a file and export a secret make a tenant; there are five at most."""
    block = section("\n## Use it\n").split("```")[1].strip().splitlines()
    assert len(block) <= 5
    (write,) = [line for line in block if line.startswith("printf ")]
    subprocess.run(["sh", "-c", write], cwd=tmp_path, check=True)
    (export,) = [line.removeprefix("export ") for line in block if line.startswith("export ")]
    (start,) = [line for line in block if line.startswith("whatsms-events ")]
    settings = config.load(tmp_path / start.split()[-1], environ=dict([export.split("=", 1)]))
    (slug,) = settings.tenants
    assert f"/webhooks/{slug}" in block[-1]


def map_of(package: str) -> str:
    """Return the lines of the package's map that are about one of its packages, or about its own modules."""
    text, inside = "", ""
    for line in (whatsms_events.__doc__ or "").splitlines():
        if re.match(r" {4}\S", line):
            opening = re.match(r" {4}(\w+)/", line)
            inside = opening[1] if opening else ""
        text += f"{line}\n" if inside == package else ""
    return text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_each_module_is_in_the_map(path: Path) -> None:
    """The docstring of the package names every module in the place of its package."""
    place = path.relative_to(PACKAGE)
    package = place.parts[0] if len(place.parts) > 1 else ""
    if "migrations" in place.parts:
        assert "migrations/" in map_of("storage")
    elif not path.stem.startswith("__"):
        assert re.search(rf"\b{path.stem}\b", map_of(package)), f"{place} is not in the map"


def test_nothing_of_one_machine_is_in_the_repository() -> None:
    """No lock file that carries addresses of a mirror, and no address in ours."""
    assert not list(ROOT.glob("pylock.toml"))
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
