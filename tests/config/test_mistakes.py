"""The file that is shipped, unchanged, and one mistake: in the environment, a flag, a secret file, the file itself."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from whatsms_events.config.load import load
from whatsms_events.config.settings import Settings, TenantRetention, TenantSettings, TokenSettings, known
from whatsms_events.config.sources import Name
from whatsms_events.errors import ConfigError

SHIPPED = (Path(__file__).parents[2] / "config" / "default.toml").read_text(encoding="utf-8")
LIKE = ("tenants", "acme", "webhook_secrets", "current")
TENANT: Mapping[Name, object] = {("tenants", "acme", "tenant_id"): "t-1", LIKE: "a-webhook-secret-of-the-tests"}
GIVEN: Mapping[Name, object] = {
    **TENANT,
    ("private", "tokens", "name", "token"): "a-token-of-the-tests",
    ("private", "tokens", "name", "scopes"): "read",
}
"""What goes with one another, so that one mistake in it is the only one."""

NAMES = sorted(
    {*known(("tenants", "acme")), LIKE} - {("tenants", "acme", "webhook_secrets", "name")},
)


def field_of(name: Name) -> FieldInfo | None:
    """Return a setting's field; None for a secret among others, which is no field of its own."""
    if name[0] == "tenants" and name[2] == "retention":
        return TenantRetention.model_fields[name[3]]
    if name[0] == "tenants":
        return TenantSettings.model_fields[name[2]] if len(name) == 3 else None
    if name[:2] == ("private", "tokens"):
        return TokenSettings.model_fields[name[3]]
    at = Settings.model_fields
    for key in name[:-1]:
        at = getattr(at[key].annotation, "model_fields")  # noqa: B009 - not every annotation has them
    return at[name[-1]]


def kinds(annotation: Any) -> set[Any]:
    """Return a type and all that it is made of."""
    return {annotation, get_origin(annotation)}.union(*(kinds(inner) for inner in get_args(annotation)))


def wrong_values(name: Name, folder: Path) -> Iterator[object]:
    """Give values that a setting cannot have: of another type, out of its range, and in no form that it knows."""
    field = field_of(name)
    made_of = kinds(field.annotation) if field is not None else {SecretStr}
    bounds = [rule for rule in field.metadata if isinstance(rule, Ge | Le)] if field is not None else []
    yield ["a"]
    if name != LIKE:  # what stands where a secret's name belongs is not shown
        yield {"a": {"b": 1}}
    if {int, float} & made_of:
        yield from ("eighty", "nan", "9" * 5000, float("inf"), True)
        for rule in bounds:
            bound: Any = rule.ge if isinstance(rule, Ge) else rule.le
            yield bound - 1 if isinstance(rule, Ge) else bound + 1
        assert len(bounds) == 2, name
    elif bool in made_of:
        yield from ("perhaps", 2)
    elif Literal in made_of:
        yield from ("nonsense", "", 7)
    elif Path in made_of:
        yield from (7, True, "a\0b", "~nobody-has-this-name/x")
        yield (
            str(folder / "whatsms.toml" / "below") if name == ("data_dir",) else __file__
        )  # a file is no use without TLS
        if name == ("data_dir",):
            yield "a" * 5000
    else:
        yield from (7, True, " a b ", "\x01", "x" * 5000)
        if SecretStr in made_of:
            yield "secret\n"


def mistakes(folder: Path) -> Iterator[tuple[Name, object]]:
    """Give every single mistake: each setting with each value that it cannot have, and with a name that is none."""
    for name in NAMES:
        for value in wrong_values(name, folder):
            yield name, value
        yield (*name[:-1], f"{name[-1]}_x"), "1"


def shipped(folder: Path, settings: Mapping[Name, object]) -> Path:
    """Write the shipped file with these settings in their places."""
    lines = SHIPPED
    for name, value in settings.items():
        section, line = ".".join(name[:-1]), f"{json.dumps(name[-1])} = {toml(value)}\n"
        if f"\n[{section}]\n" in lines:
            lines = lines.replace(f"\n[{section}]\n", f"\n[{section}]\n{line}")
        else:
            lines = f"{lines}\n[{section}]\n{line}" if section else f"{line}{lines}"
    path = folder / "whatsms.toml"
    path.write_text(lines, encoding="utf-8")
    return path


def toml(value: object) -> str:
    """Spell a value as TOML does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, float):
        return str(value)
    return json.dumps(value)


def said(path: Path, **given: Any) -> list[str]:
    """Load what must not load; return what is said."""
    with pytest.raises(ConfigError) as caught:
        load(path, **({"environ": {}} | given))
    return list(caught.value.problems)


def assert_named(lines: list[str], spelled: str, value: object) -> None:
    """Check that there is one line and that it names the setting."""
    assert len(lines) == 1, (spelled, value, lines)
    assert re.match(rf"{re.escape(spelled)}(\.\w+)*: [a-zA-Z/]", lines[0]), (spelled, value, lines)


@pytest.mark.slow  # hundreds of settings files for each source
@pytest.mark.parametrize("source", ["environment", "flag", "secret file", "file"])
def test_each_single_mistake_beside_the_shipped_file_is_one_line_that_names_the_setting(
    source: str, tmp_path: Path
) -> None:
    """Whatever one source says wrongly of one setting, the shipped file beside it, one line names that setting as the
    source spells it: never a traceback, never a second complaint.
    """
    tried = 0
    for name, value in mistakes(tmp_path):
        dotted, double = ".".join(name), "__".join(name)
        # A misspelt name stands for the right one, which is then missing.
        right = (*name[:-1], name[-1].removesuffix("_x"))
        tenant = {one: kept for one, kept in GIVEN.items() if one not in (name, right)}
        flags = {".".join(one): kept for one, kept in tenant.items()}
        text = str(value) if not isinstance(value, bool) else str(value).lower()
        if source == "file":
            assert_named(said(shipped(tmp_path, tenant | {name: value})), dotted, value)
        elif source == "flag":
            assert_named(said(shipped(tmp_path, {}), flags=flags | {dotted: value}), dotted, value)
        elif not text or "\0" in text or (value in (1, 2, 7, 1.5) or isinstance(value, bool | list | dict)):
            continue  # cannot be told from a text that may be right
        elif source == "environment":
            variable = "WHATSMS_EVENTS_" + double.upper()
            lines = said(shipped(tmp_path, {}), environ={variable: text}, flags=flags)
            assert_named(lines, variable, value)
        elif not text.endswith("\n"):
            secrets = tmp_path / "secrets"
            secrets.mkdir(exist_ok=True)
            (secrets / double).write_text(text)
            assert_named(said(shipped(tmp_path, {}), secrets_dir=secrets, flags=flags), double, value)
            (secrets / double).unlink()
        tried += 1
    assert tried > 2 * len(NAMES)


def test_the_shipped_file_is_unchanged_by_what_others_say(tmp_path: Path) -> None:
    """A value for a section that the file leaves empty is taken, from each source above it."""
    environ = {"WHATSMS_EVENTS_PUBLIC__PORT": "9000"}
    assert load(shipped(tmp_path, {}), environ=environ, flags={"private.port": 9001}).public.port == 9000


@pytest.mark.parametrize("slug", ["[key]", "a[key]", ""])
def test_a_name_that_pydantic_uses_itself_is_refused_like_any_other(slug: str, tmp_path: Path) -> None:
    """A slug that looks like pydantic's own mark for a wrong key ends in a line as well."""
    tenant = {("tenants", slug, *name[2:]): value for name, value in TENANT.items()}
    flags = {".".join(name): value for name, value in tenant.items()}
    lines = said(shipped(tmp_path, {}), flags=flags)
    assert lines == [
        f"tenants.{slug}: should be lower-case letters and digits, joined by single underscores, at most 64 characters"
    ]


def test_a_number_that_python_does_not_read_is_said(tmp_path: Path) -> None:
    """A TOML number of thousands of digits is one line, although Python's own error is no error of TOML."""
    path = tmp_path / "whatsms.toml"
    path.write_text(f"[public]\nport = {'9' * 5000}\n")
    assert said(path) == [f"{path}: holds a number of more digits than any setting takes"]
