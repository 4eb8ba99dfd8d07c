"""Configuration: every trap of its sources is closed, and no problem or description shows a secret."""

import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from whatsms_events.config.checks import NO_TENANTS, advice, kept_for_ever
from whatsms_events.config.load import load
from whatsms_events.config.render import describe, render
from whatsms_events.config.settings import Settings, known
from whatsms_events.errors import ConfigError

DEFAULTS = Path(__file__).parents[2] / "config" / "default.toml"
CANARY = "c4n4ry-S3cret-w0rth-hiding"
E = "WHATSMS_EVENTS_"
TENANT = {E + "TENANTS__ACME__TENANT_ID": "t-1", E + "TENANTS__ACME__WEBHOOK_SECRETS__CURRENT": CANARY}


def write(folder: Path, text: str) -> Path:
    """Return a new TOML file."""
    path = folder / "whatsms.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    secrets_dir: Path | None = None,
    flags: Mapping[str, object] | None = None,
) -> tuple[str, ...]:
    """Load what must not load; each problem is one line."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ or {}, secrets_dir=secrets_dir, flags=flags or {})
    assert all(line.isprintable() for line in caught.value.problems)
    error: BaseException | None = caught.value
    while error is not None:  # also what a traceback would show
        assert CANARY not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return caught.value.problems


def toml_problems(folder: Path, text: str) -> tuple[str, ...]:
    """Load TOML that must not load."""
    return problems(write(folder, text))


# Where values come from.


def test_nothing_given_is_the_defaults() -> None:
    """Without any source the defaults are in force, the data folder in the working folder, and there are no tenants."""
    settings = load(environ={})
    assert settings.model_dump() == Settings().model_dump() | {"data_dir": Path.cwd() / "var"}
    assert settings.tenants == {}


def test_flag_over_environment_over_secret_file_over_file(tmp_path: Path) -> None:
    """Each source overrides the ones below it, value by value, and a flag that is None was not given."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    names = ["a", "b", "c", "d"]
    path = write(
        tmp_path,
        "[tenants.acme]\ntenant_id = 't'\n[tenants.acme.webhook_secrets]\n"
        + "".join(f"{n} = 'in-the-file'\n" for n in names),
    )
    for name in names[1:]:
        (secrets / f"tenants__acme__webhook_secrets__{name}").write_text("in-the-folder\n")
    environ = {f"{E}TENANTS__ACME__WEBHOOK_SECRETS__{name.upper()}": "in-the-environment" for name in names[2:]}
    flags = {"tenants.acme.webhook_secrets.d": "in-a-flag", "public.port": None}
    settings = load(path, environ=environ, secrets_dir=secrets, flags=flags)
    found = {name: secret.get_secret_value() for name, secret in settings.tenants["acme"].webhook_secrets.items()}
    assert found == {"a": "in-the-file", "b": "in-the-folder", "c": "in-the-environment", "d": "in-a-flag"}
    origins = {name[3]: origin for name, _, origin in describe(settings) if name[2:3] == ("webhook_secrets",)}
    assert origins == {"a": "file", "b": "secret file", "c": "environment", "d": "flag"}


def test_variables_name_file_and_folder(tmp_path: Path) -> None:
    """WHATSMS_EVENTS_CONFIG and WHATSMS_EVENTS_SECRETS_DIR name the file and the folder where no argument does."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "private__token").write_text("0123456789abcdef\r\n")
    path = write(tmp_path, "[public]\nport = 9000\n")
    settings = load(environ={E + "CONFIG": str(path), E + "SECRETS_DIR": str(secrets)})
    assert settings.public.port == 9000
    assert settings.private.token is not None
    assert settings.private.token.get_secret_value() == "0123456789abcdef"


def test_numbers_and_switches_are_read_from_text() -> None:
    """The environment's text becomes numbers and switches; names of tenants and secrets become lower case."""
    environ = TENANT | {
        E + "KAFKA__TIMEOUT_S": "2.5",
        E + "DATABASE__TLS": "true",
        E + "DATABASE__URL": "postgresql://u@h:5432/n",
    }
    settings = load(environ=environ)
    assert (settings.kafka.timeout_s, settings.database.tls) == (2.5, True)
    assert settings.tenants["acme"].webhook_secrets["current"].get_secret_value() == CANARY


def test_secret_files_behind_links_are_read_and_dot_names_passed_over(tmp_path: Path) -> None:
    """Kubernetes shows each secret as a link into a folder whose name begins with a dot."""
    data = tmp_path / "secrets" / "..2026"
    data.mkdir(parents=True)
    (data / "kafka__topic_prefix").write_text("live")
    (tmp_path / "secrets" / "..data").symlink_to(data)
    (tmp_path / "secrets" / "kafka__topic_prefix").symlink_to("..data/kafka__topic_prefix")
    assert load(environ={}, secrets_dir=tmp_path / "secrets").kafka.topic_prefix == "live"


# Where paths begin.

PATHS = """
data_dir = "data"
[kafka]
security_protocol = "SSL"
ca_file = "ca.pem"
cert_file = "own.pem"
key_file = "../own.key"
[database]
url = "sqlite:///log/log.db"
"""


def test_relative_paths_begin_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each path of the file, and the default of data_dir, begins at the folder of the file, wherever one stands and
    however the file is named.
    """
    folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    for one in (folder, elsewhere):
        one.mkdir()
    authority = trustme.CA()
    own = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own.cert_chain_pems[0].write_to_path(str(folder / "own.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    path = write(folder, PATHS)
    for where, name in ((elsewhere, path), (elsewhere, Path("../etc/whatsms.toml")), (folder, Path("whatsms.toml"))):
        monkeypatch.chdir(where)
        for settings in (load(name, environ={}), load(environ={E + "CONFIG": str(name)})):
            kafka = settings.kafka
            found = [settings.data_dir, kafka.ca_file, kafka.cert_file, kafka.key_file]
            wanted = [folder / "data", folder / "ca.pem", folder / "own.pem", tmp_path / "own.key"]
            assert [one and one.resolve() for one in found] == wanted
            assert all(one and one.is_absolute() for one in found)
            assert settings.database.url == f"sqlite:///{settings.data_dir.parent}/log/log.db"
    for settings in (load(write(folder, ""), environ={}), load(environ={E + "CONFIG": str(path)})):
        assert settings.data_dir.parent == folder


def test_paths_that_somebody_typed_begin_where_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path in a flag, a variable or a secret file begins at the working folder, whatever file there is."""
    (tmp_path / "etc").mkdir()
    path = write(tmp_path / "etc", 'data_dir = "of-the-file"\n')
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "data_dir").write_text("typed\n")
    monkeypatch.chdir(tmp_path)
    for settings in (
        load(path, environ={}, flags={"data_dir": "typed"}),
        load(path, environ={E + "DATA_DIR": "typed"}),
        load(path, environ={}, secrets_dir=Path("secrets")),
    ):
        assert settings.data_dir == tmp_path / "typed"
    flags = {"database.url": "sqlite:///typed.db"}
    assert load(path, environ={}, flags=flags).database.url == f"sqlite:///{tmp_path}/typed.db"
    assert load(path, environ={}, flags={"data_dir": "/a/b"}).data_dir == Path("/a/b")


def test_absolute_paths_need_no_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose working folder an upgrade removed can read its settings where no path begins there."""
    path = write(tmp_path, 'data_dir = "var"\n')
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path / "release")
    (tmp_path / "release").rmdir()
    flags = {"database.url": f"sqlite:///{tmp_path}/typed.db"}
    try:
        assert load(path, environ={}, flags=flags).data_dir == tmp_path / "var"
        assert load(path, environ={E + "DATA_DIR": str(tmp_path)}).data_dir == tmp_path
        assert load(None, environ={E + "DATA_DIR": str(tmp_path)}).data_dir == tmp_path
    finally:
        monkeypatch.chdir(tmp_path)


def test_one_file_has_one_data_folder_by_whatever_name(tmp_path: Path) -> None:
    """A link to the file leads to the folder of the file; Kubernetes' links, whose folder changes, do not."""
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    path = write(tmp_path / "real", "")
    (tmp_path / "links" / "one.toml").symlink_to(path)
    (tmp_path / "links" / "two.toml").symlink_to("one.toml")
    for name in ("one", "two"):
        assert load(tmp_path / "links" / f"{name}.toml", environ={}).data_dir == tmp_path / "real" / "var"
    mounted = tmp_path / "mounted"
    (mounted / "..2026_06_10").mkdir(parents=True)
    write(mounted / "..2026_06_10", "")
    (mounted / "..data").symlink_to("..2026_06_10")
    (mounted / "whatsms.toml").symlink_to("..data/whatsms.toml")
    assert load(mounted / "whatsms.toml", environ={}).data_dir == mounted / "var"


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, in every source; a name that nobody has is a mistake, and makes no folder "~name"."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path, "data_dir = '~/of-the-file'\n")
    assert load(path, environ={}).data_dir == tmp_path / "of-the-file"
    assert load(environ={E + "DATA_DIR": "~/x"}).data_dir == tmp_path / "x"
    assert load(environ={}, flags={"database.url": "sqlite:///~/x.db"}).database.url == f"sqlite:///{tmp_path}/x.db"
    assert problems(flags={"data_dir": "~nobody-has-this-name/x"}) == (
        "data_dir: begins with ~ and a name that nobody has on this machine",
    )


# What is wrong with a source.


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    """A file or folder that is named but not there stops the start, both in one go."""
    first, second = problems(tmp_path / "no.toml", secrets_dir=tmp_path / "none")
    assert first == f"{tmp_path}/no.toml: cannot be read: no such file or directory"
    assert second == f"{tmp_path}/none: cannot be read: no such file or directory"
    assert problems(environ={E + "CONFIG": str(tmp_path)}) == (f"{tmp_path}: cannot be read: is a directory",)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"[private]\ntoken = {CANARY}\n", "line 2, column 9"),
        (f"a = 1\n'{CANARY}' = 1\n'{CANARY}' = 2\n", "line 3"),
        (f"token = '{CANARY}", "end of document|line 1"),
        ("[a]\n[a]\n", "line 2"),
    ],
)
def test_toml_error_names_its_place_and_not_the_text(tmp_path: Path, text: str, place: str) -> None:
    """A syntax error gives line and column, and nothing of the line, where a secret may stand."""
    (problem,) = toml_problems(tmp_path, text)
    assert re.search(f"not valid TOML at .*({place})", problem)


def test_files_that_are_no_text_are_errors(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and files far too large, are refused by name."""
    path = tmp_path / "x.toml"
    path.write_bytes(b"a = '\xff'")
    assert problems(path) == (f"{path}: cannot be read: not UTF-8",)
    path.write_bytes(b"#" * 2_000_000)
    assert "larger than" in problems(path)[0]
    path.write_text("a = " + "[" * 5000)
    assert "nested too deeply" in problems(path)[0] or "not valid TOML" in problems(path)[0]
    assert problems(environ={E + "KAFKA__USERNAME": "a\udcff"}) == (f"{E}KAFKA__USERNAME: is not UTF-8",)


def test_secret_files_that_cannot_be_right_are_errors(tmp_path: Path) -> None:
    """An empty secret, a folder among them, bytes that are no text, and a name of no setting are errors."""
    (tmp_path / "private__token").write_text("\n")
    (tmp_path / "database__password").mkdir()
    (tmp_path / "kafka__password").write_bytes(b"\xff\xfe")
    (tmp_path / "kafka__pasword").write_text(CANARY)
    assert problems(secrets_dir=tmp_path) == (
        "secret file database__password: cannot be read: is a directory",
        "secret file kafka__password: cannot be read: not UTF-8",
        "secret file private__token: is empty",
        "kafka__pasword: no such setting; did you mean kafka__password?",
    )


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("KAFKA__BOOTSTRAP_SERVER", f"no such setting; did you mean {E}KAFKA__BOOTSTRAP_SERVERS?"),
        ("KAFKA_BOOTSTRAP_SERVERS", f"no such setting; did you mean {E}KAFKA__BOOTSTRAP_SERVERS?"),
        ("CONFG", f"no such setting; did you mean {E}CONFIG?"),
        ("ZZZ", "no such setting"),
        ("TENANTS__ACME__TENANTID", f"no such setting; did you mean {E}TENANTS__ACME__TENANT_ID?"),
        ("TENANTS__ACME__WEBHOOK_SECRET__CURRENT", f"did you mean {E}TENANTS__ACME__WEBHOOK_SECRETS__CURRENT?"),
        ("TENANTS__0__TENANT_ID__X", "no such setting"),
        ("kafka__username", "write it in capital letters"),
    ],
)
def test_misspelt_variable_is_an_error_with_the_nearest_name(variable: str, says: str) -> None:
    """A variable that begins like ours and is no setting is refused; the nearest name is suggested."""
    (problem,) = problems(environ={E + variable: CANARY, "WHATSMS_OTHER__KAFKA": "not ours"})
    assert problem.startswith(f"{E}{variable}: ")
    assert says in problem


def test_empty_variable_is_an_error() -> None:
    """An empty variable is neither a value nor nothing: it is refused."""
    assert problems(environ={E + "KAFKA__USERNAME": ""}) == (
        f"{E}KAFKA__USERNAME: is empty; give it a value or unset it",
    )


@pytest.mark.parametrize("variable", ["TENANTS", "TENANTS__ACME", "TENANTS__ACME__WEBHOOK_SECRETS", "KAFKA"])
@pytest.mark.parametrize("value", ['{"current": "' + CANARY + '"}', '{"' + CANARY])
def test_json_for_a_section_is_refused_without_showing_it(variable: str, value: str) -> None:
    """A section is not set as JSON, be it well formed or not; the message says which variables there are."""
    (problem,) = problems(environ={E + variable: value})
    assert re.match(rf"{E}{variable}: is a section, .* such as {E}{variable}__[A-Z_]+$", problem)


def test_unknown_and_misplaced_toml_names_are_errors(tmp_path: Path) -> None:
    """Unknown names, values for sections, sections for values, and lists are refused, each on its line."""
    text = f"""
    relay = "{CANARY}"
    [kafka]
    topic_prefx = "{CANARY}"
    timeout_s.value = 1
    [[tenants]]
    tenant_id = "{CANARY}"
    """
    assert toml_problems(tmp_path, text) == (
        "relay: is a section, not a setting; set its fields one by one, such as relay.batch_limit",
        "kafka.topic_prefx: no such setting; did you mean kafka.topic_prefix?",
        "kafka.timeout_s.value: no such setting; did you mean kafka.timeout_s?",
        "tenants: is a section, not a setting; set its fields one by one, such as tenants.name.tenant_id",
    )


def test_unknown_flag_is_an_error() -> None:
    """A flag that names no setting is refused like any other name."""
    assert problems(flags={"public.prot": 1}) == ("public.prot: no such setting; did you mean public.port?",)


# What is wrong with a value.


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Names, forms, missing values and what does not fit together are all found in one run."""
    text = f"""
    [private]
    host = "0.0.0.0"
    [kafka]
    timeout_s = nan
    prefix = "x"
    key_file = "/no/such/key"
    [tenants.one]
    tenant_id = "same"
    webhook_secrets = {{ current = "{CANARY}" }}
    [tenants.two]
    tenant_id = "same"
    webhook_secrets = {{ current = "{CANARY}" }}
    [tenants.three]
    """
    found = problems(write(tmp_path, text), environ={E + "PUBLIC__PORT": "70000"})
    assert [line.split(":")[0] for line in found] == [
        "kafka.prefix",
        f"{E}PUBLIC__PORT",
        "kafka.timeout_s",
        "tenants.three.tenant_id",
        "tenants.three.webhook_secrets",
        "private.token",
        "kafka.key_file",
        "tenants.two.tenant_id",
        "kafka.key_file",
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("public.port", "eighty", "should be a valid integer"),
        ("public.port", 65536, "should be less than or equal to 65535"),
        ("public.host", "a b", "should be a host name or an address"),
        ("private.token", "short", "should have 16 to 1024 characters"),
        ("private.token", CANARY + " x", "should have only letters"),
        ("receiver.body_limit_bytes", 65 * 1024 * 1024, "should be less than or equal to 67108864"),
        ("receiver.deadline_s", "inf", "should be a finite number"),
        ("receiver.in_flight_limit_bytes", 1024 * 1024, "should be at least receiver.body_limit_bytes"),
        ("kafka.bootstrap_servers", "broker", "should be host:port"),
        ("kafka.topic_prefix", "a/b", "should be up to 200"),
        ("kafka.security_protocol", "TLS", "should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("kafka.retention_ms", 1000, "should be -1 (for ever) or at least an hour"),
        ("whatsms.base_url", f"https://{CANARY}:x@api.example/v2", "holds a user or a password"),
        ("whatsms.base_url", f"https://api.example/v2?key={CANARY}", "should have no query"),
        ("whatsms.base_url", f"https://api.example:{CANARY}/v2", "is not a URL"),
        ("whatsms.base_url", "ftp://api.example/v2", "should have the form https://host/api/v2"),
        ("whatsms.base_url", "api.example/v2", "should have the form https://host/api/v2"),
        ("whatsms.base_url", "https:///v2", "should have the form https://host/api/v2"),
        ("whatsms.base_url", "https://api.example/a b", "should have the form https://host/api/v2"),
        ("whatsms.page_parameter", "page=1&x", "should be the name of a query parameter"),
        ("backfill.requests_per_minute", 301, "should be whatsms.requests_per_minute or fewer"),
        ("backfill.page_size", 101, "should be less than or equal to 100"),
        ("backfill.messages", "all", "should be 'off', 'narrow' or 'full'"),
        ("backfill.interval_s", -1, "should be greater than or equal to 0"),
        ("logs.level", "INFO", "should be 'debug', 'info', 'warning' or 'error'"),
        ("database.tls", "perhaps", "should be a valid boolean"),
        ("database.password", CANARY, "is for PostgreSQL only"),
        ("database.tls", True, "is for PostgreSQL only"),
    ],
)
def test_wrong_value_is_named_with_its_rule(name: str, value: object, says: str) -> None:
    """Every value has a form or bounds; the problem names the setting and the rule, not the value."""
    (problem,) = problems(flags={name: value})
    assert problem.startswith(f"{name}: {says}")


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("", "should have 8 to 1024 characters"),
        ("hush", "should have 8 to 1024 characters"),
        (CANARY + "\n", "begins or ends with white space, perhaps a stray newline"),
        (" " + CANARY, "begins or ends with white space"),
        (12345678, "should be a valid string"),
        (CANARY * 60, "should have 8 to 1024 characters"),
    ],
)
def test_weak_or_damaged_webhook_secret_is_refused(secret: object, says: str) -> None:
    """A secret that is empty, short, or has white space around it would refuse or admit the wrong deliveries."""
    (problem,) = problems(flags={"tenants.a.tenant_id": "t", "tenants.a.webhook_secrets.current": secret})
    assert problem.startswith(f"tenants.a.webhook_secrets.current: {says}")


def test_secret_file_with_two_newlines_is_refused(tmp_path: Path) -> None:
    """One newline at the end is an editor's; a second one is part of the secret, and surely a mistake."""
    (tmp_path / "tenants__a__tenant_id").write_text("t")
    (tmp_path / "tenants__a__webhook_secrets__current").write_text(CANARY + "\n\n")
    (problem,) = problems(secrets_dir=tmp_path)
    assert "stray newline" in problem


def test_secret_written_where_its_name_belongs_is_not_shown(tmp_path: Path) -> None:
    """A name and a secret the wrong way round are refused without the secret."""
    text = f"[tenants.a]\ntenant_id = 't'\nwebhook_secrets = {{ {CANARY} = 'current-secret' }}\n"
    (problem,) = toml_problems(tmp_path, text)
    assert problem.startswith("tenants.a.webhook_secrets: should be lower-case letters")


@pytest.mark.parametrize("slug", ["Acme", "a-b", "a__b", "_a", "a" * 65, ""])
def test_slug_that_no_variable_could_name_is_refused(slug: str, tmp_path: Path) -> None:
    """Slugs are lower-case letters, digits and single underscores, as environment variables need it."""
    text = f"[tenants.'{slug}']\ntenant_id = 't'\nwebhook_secrets = {{ current = '{CANARY}' }}\n"
    assert "lower-case letters" in toml_problems(tmp_path, text)[0]


# What does not fit together.


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.com"])
def test_private_listener_that_others_reach_needs_a_token(host: str) -> None:
    """The read API is open without a token only to this machine itself."""
    assert problems(flags={"private.host": host}) == (
        "private.token: is required, since private.host can be reached from other machines",
    )
    load(environ={}, flags={"private.host": host, "private.token": CANARY})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_private_listener_on_loopback_needs_no_token(host: str) -> None:
    """Every form of loopback is known as such."""
    assert load(environ={}, flags={"private.host": host}).private.host == host


def test_two_listeners_on_one_port_are_refused() -> None:
    """Public and private listener differ in their port wherever they share an address; port 0 is always free."""
    for host in ("0.0.0.0", "127.0.0.1", "::"):
        assert "public listener's too" in problems(flags={"public.host": host, "private.port": 8080})[0]
    load(environ={}, flags={"public.host": "10.0.0.1", "private.port": 8080})
    load(environ={}, flags={"public.port": 0, "private.port": 0})


def test_tenants_with_one_tenant_id_are_refused() -> None:
    """One account has one slug, else its events would have two doors."""
    flags = {f"tenants.{slug}.{key}": CANARY for slug in "ab" for key in ("tenant_id", "webhook_secrets.current")}
    with pytest.raises(ConfigError) as caught:
        load(environ={}, flags=flags)
    assert caught.value.problems == ("tenants.b.tenant_id: is that of tenants.a too; one account has one slug",)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"postgresql://u:{CANARY}@h/db", "holds a password"),
        (f"postgresql://u:1/{CANARY}@h/db", "holds a password"),
        (f"postgresql://u@h/db?password={CANARY}", "should end with the database's name"),
        (f"postgresql://u@h:{CANARY}/db", "is not a URL"),
        ("postgresql:///db", "should have the form"),
        ("postgresql://u@h", "should have the form"),
        ("postgresql://u@h:1,/db", "should have the form"),
        ("postgresql://u@h:1,other:99999/db", "should have the form"),
        ("postgresql://u@h:1,other:2", "should have the form"),
        (f"postgresql://u:{CANARY}@h:1,other:2/db", "holds a password"),
        ("postgresql://u@h/db?target_session_attrs=any", "should end with the database's name"),
        ("postgresql+asyncpg://u@h/db", "should begin with"),
        ("postgres://u@h/db", "should begin with"),
        ("mysql://u@h/db", "should begin with"),
        ("sqlite://", "should name a file"),
        ("sqlite:///:memory:", "should name a file"),
        (CANARY, "should begin with"),
    ],
)
def test_database_url_has_two_forms_and_no_password(url: str, says: str) -> None:
    """Only sqlite and postgresql, and never a password, since urls are printed."""
    (problem,) = problems(flags={"database.url": url})
    assert problem.startswith(f"database.url: {says}")


def test_database_urls_that_are_right() -> None:
    """Both forms load, PostgreSQL with several hosts, and with password and TLS beside the URL."""
    load(environ={}, flags={"database.url": "sqlite:////var/lib/whatsms/log.db"})
    for hosts in ("a.example:5432,b.example:5433", "a.example,b.example,[::1]:5433"):
        for query in ("", "?target_session_attrs=read-write", "?target_session_attrs=primary"):
            load(environ={}, flags={"database.url": f"postgresql://u@{hosts}/n{query}"})
    load(
        environ={},
        flags={"database.url": "postgresql://u@[::1]:5432/n", "database.password": "p", "database.tls": True},
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"security_protocol": "SASL_SSL", "username": "u", "password": CANARY}, "sasl_mechanism: is required"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "password": CANARY}, "username: is required"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u"}, "password: is required"),
        ({"password": CANARY}, "password: is of no use without SASL"),
        ({"ca_file": __file__}, "ca_file: is of no use without TLS"),
        ({"security_protocol": "SSL", "key_file": __file__}, "key_file: needs kafka.cert_file"),
        ({"security_protocol": "SSL", "ca_file": "/no/such.pem"}, "ca_file: the file /no/such.pem cannot be read"),
        ({"security_protocol": "SSL", "ca_file": "/"}, "ca_file: the file / cannot be read: is a directory"),
    ],
)
def test_kafka_security_fits_together(flags: dict[str, object], says: str) -> None:
    """SASL has mechanism, user and password; certificates need TLS, and can be read."""
    (problem,) = problems(flags={f"kafka.{key}": value for key, value in flags.items()})
    assert problem.startswith(f"kafka.{says}")


def test_an_api_key_goes_over_the_network_only_encrypted() -> None:
    """Plain HTTP to another machine is refused where any tenant has a key; to this machine it is a twin's."""
    keyed = TENANT | {E + "TENANTS__ACME__API_KEY": CANARY}
    clear = {"whatsms.base_url": "http://api.example/api/v2"}
    (problem,) = problems(environ=keyed, flags=clear)
    assert problem.startswith("whatsms.base_url: should begin with https://")
    load(environ=TENANT, flags=clear)
    for host in ("127.0.0.1:9000", "[::1]:9000", "localhost:9000"):
        load(environ=keyed, flags={"whatsms.base_url": f"http://{host}/api/v2"})


def test_the_budget_of_backfills_is_part_of_the_keys() -> None:
    """A smaller limit of the key needs a smaller budget; both at one figure load."""
    (problem,) = problems(flags={"whatsms.requests_per_minute": 100})
    assert problem.startswith("backfill.requests_per_minute: should be whatsms.requests_per_minute or fewer")
    load(environ={}, flags={"whatsms.requests_per_minute": 100, "backfill.requests_per_minute": 100})


def test_check_of_something_wrong_already_is_left_out() -> None:
    """A token that is too short is one problem, not also a missing token."""
    assert len(problems(flags={"private.host": "0.0.0.0", "private.token": "short"})) == 1


def test_advice_names_what_is_allowed_but_doubtful() -> None:
    """No tenants, no API key, receipts for who wrote, a password in the clear and a database without TLS load, and
    `config check` warns of them.
    """
    assert advice(load(environ={})) == [NO_TENANTS]
    keyed = TENANT | {E + "TENANTS__ACME__API_KEY": CANARY}
    assert advice(load(environ=keyed)) == []
    (line,) = advice(load(environ=TENANT))
    assert "none has an api_key" in line
    large = {"receiver.body_limit_bytes": str(64 << 20), "kafka.bootstrap_servers": "kafka:9092"}
    (line,) = advice(load(environ=keyed, flags=large))
    assert line.startswith("receiver.body_limit_bytes: so large a record may take 64 s")
    patient = {"kafka.timeout_s": "64", "relay.transaction_timeout_s": "64"}
    assert advice(load(environ=keyed, flags=large | patient)) == []
    (line,) = advice(load(environ=keyed, flags={"backfill.messages": "narrow"}))
    assert "read receipts" in line
    brokers = {"kafka.bootstrap_servers": "kafka:9092"}
    assert advice(load(environ=keyed, flags=brokers)) == []
    (line,) = advice(load(environ=keyed, flags=brokers | {"kafka.retention_ms": "-1"}))
    assert line.startswith("kafka.retention_ms: is -1, so topics keep every person's data for ever")
    flags = {
        "database.url": "postgresql://u@db/n",
        "kafka.security_protocol": "SASL_PLAINTEXT",
        "kafka.sasl_mechanism": "PLAIN",
        "kafka.username": "u",
        "kafka.password": "p",
    }
    lines = advice(load(environ=keyed, flags=flags))
    assert [line.split(":")[0] for line in lines] == ["kafka.sasl_mechanism", "database.tls"]


def test_what_is_kept_for_ever_is_named_with_its_tenants() -> None:
    """Each kind without an end is one line, of all tenants or of those that have none; bytes end with their data."""
    two = TENANT | {E + "TENANTS__ZOO__TENANT_ID": "t-2", E + "TENANTS__ZOO__WEBHOOK_SECRETS__A": "a-secret-of-zoo"}
    assert kept_for_ever(load(environ=two)) == [
        "retention.raw_days: the bytes of every delivery are kept for ever",
        "retention.data_days: the data of every event is kept for ever",
        "retention.texts_days: the wording of every message is kept for ever",
    ]
    own = {"tenants.zoo.retention.data_days": "30", "tenants.acme.retention.parked_days": "0"}
    assert kept_for_ever(load(environ=two, flags={"retention.texts_days": "0.5"} | own)) == [
        "retention.raw_days: the bytes of every delivery of acme are kept for ever",
        "retention.data_days: the data of every event of acme is kept for ever",
        "retention.parked_days: what is parked of acme is kept for ever",
    ]
    assert kept_for_ever(load(environ={})) == []


# What is shown.


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither `config show` nor repr, str, dump or the library's own debug log shows a secret."""
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    caplog.set_level(logging.DEBUG)
    environ = TENANT | {
        E + "PRIVATE__TOKEN": CANARY,
        E + "TENANTS__ACME__API_KEY": CANARY,
        E + "DATABASE__URL": "postgresql://u@h/db",
        E + "DATABASE__PASSWORD": CANARY,
        E + "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        E + "KAFKA__SASL_MECHANISM": "PLAIN",
        E + "KAFKA__USERNAME": "u",
        E + "KAFKA__PASSWORD": CANARY,
    }
    settings = load(environ=environ)
    shown = [render(settings), str(settings), repr(settings), settings.model_dump_json(), *describe(settings)]
    assert CANARY not in f"{shown} {settings.model_dump()} {caplog.text}"
    assert render(settings).count('"********"') == 5


def test_render_is_toml_with_origins() -> None:
    """`config show` prints TOML that says of each value where it came from."""
    settings = load(environ=TENANT, flags={"data_dir": '/a "b"\\c', "public.port": 9000})
    text = render(settings)
    table = tomllib.loads(text)
    assert table["data_dir"] == '/a "b"\\c'
    assert "port = 9000  # flag" in text
    assert 'host = "127.0.0.1"  # default' in text
    assert "# token is not set" in text
    assert 'current = "********"  # environment' in text
    assert table["tenants"]["acme"]["tenant_id"] == "t-1"


def test_settings_are_frozen() -> None:
    """Nothing changes once it is loaded."""
    with pytest.raises(ValueError, match="frozen"):
        load(environ={}).public.port = 1


def test_every_number_has_bounds() -> None:
    """No number is taken unless it has a least and a largest value."""
    sections = [f.annotation for f in Settings.model_fields.values()]
    numbers = [
        (name, field.metadata)
        for section in sections
        for name, field in getattr(section, "model_fields", {}).items()
        if field.annotation in (int, float)
    ]
    assert len(numbers) > 15
    for name, metadata in numbers:
        assert any(hasattr(rule, "ge") for rule in metadata), name
        assert any(hasattr(rule, "le") for rule in metadata), name


# config/default.toml


def in_defaults(marker: str) -> dict[str, object]:
    """Return the settings that stand behind a marker, by dotted name."""
    section, found = "", {}
    for line in DEFAULTS.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"#*\[(.+)\]", line):
            section = header[1] + "."
        if match := re.fullmatch(rf"{marker}(\w+) = (.+)", line):
            found[section + match[1]] = tomllib.loads(f"x = {match[2]}")["x"]
    return found


def starts(name: Sequence[str], *beginnings: Sequence[str]) -> bool:
    """Tell whether a name begins with one of these."""
    return any(tuple(name[: len(one)]) == tuple(one) for one in beginnings)


def test_default_toml_has_every_setting_with_its_default_and_a_sentence() -> None:
    """The file names every setting once: behind "#" with its default, behind "##" if it has none; each explained."""
    named = (("tenants",), ("private", "tokens"))
    defaults = {".".join(n): v for n, v, _ in describe(Settings()) if v is not None and not starts(n, *named)}
    given, examples = in_defaults("#"), in_defaults("##")
    assert {name: str(value) for name, value in given.items()} == {name: str(value) for name, value in defaults.items()}
    at_acme = [name for name in known(("tenants", "acme")) if not starts(name, named[1])]
    everything = {".".join(name if "retention" in name else name[:3]) for name in at_acme}
    everything |= {".".join(name) for name in known(("private", "tokens", "grafana")) if starts(name, named[1])}
    assert given.keys() | examples.keys() == everything
    assert not given.keys() & examples.keys()
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if re.match(r"##?\w+ = ", line):
            assert re.fullmatch(r"# [A-Z].+\.", above), line


def test_default_toml_loads_and_changes_nothing(tmp_path: Path) -> None:
    """As it is, and with every default uncommented, the file loads as the defaults; the examples are valid too."""
    text = DEFAULTS.read_text(encoding="utf-8")
    uncommented = re.sub(r"(?m)^#(?=\w+ = )", "", text)
    defaults = Settings().model_dump() | {"data_dir": tmp_path / "var"}
    for content in (text, uncommented):
        assert load(write(tmp_path, content), environ={}).model_dump() == defaults
    examples = tomllib.loads(re.sub(r"(?m)^##(?=\w+ = |\[)", "", text))
    assert Settings(**examples).tenants["acme"].tenant_id == "the-tenant-id"


def test_two_slugs_for_one_account_are_seen_in_any_spelling(tmp_path: Path) -> None:
    """One account has one slug, also where its UUID is written in capitals or with braces."""
    one = "3f2b8c1e-0d4a-4b9e-9a77-5c6d7e8f9012"
    secrets = "webhook_secrets = { current = 'current-secret' }\n"
    text = f"[tenants.a]\ntenant_id = '{one}'\n{secrets}[tenants.b]\ntenant_id = '{{{one.upper()}}}'\n{secrets}"
    (problem,) = problems(write(tmp_path, text))
    assert problem == "tenants.b.tenant_id: is that of tenants.a too; one account has one slug"
