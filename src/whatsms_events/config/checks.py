"""This module checks settings against each other, and checks that the files they name can be used.

The text of a fault never shows anything of a file. A library's own text about a certificate or a key could show some.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from whatsms_events.config.settings import Settings
from whatsms_events.config.sources import Name
from whatsms_events.domain.normalize import BODY_BYTES
from whatsms_events.domain.scopes import scopes
from whatsms_events.domain.tenant import canonical
from whatsms_events.storage import postgres_url

Fault = tuple[Name, str]

LARGE_BYTES_PER_S: Final = 1024 * 1024
"""A slow way to a broker: 16 Mbit a second, since a record may be twice as large there as its body."""

SOCKET_PATH_BYTES: Final = 100
"""The address of a UNIX socket has 107 on Linux, and 103 elsewhere."""

_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def faults(settings: Settings, wrong: Collection[Name]) -> list[Fault]:
    """Return each fault with the setting to name. Checks of settings that are already known as `wrong` are left out."""
    return [
        fault
        for check, names in _CHECKS.items()
        if not any(tuple(name.split(".")) in wrong for name in names)
        for fault in check(settings)
    ]


def advice(settings: Settings) -> list[str]:
    """Return a line for each setting that is allowed but worth a second look; `config check` shows them."""
    lines = []
    if not settings.tenants:
        lines.append(NO_TENANTS)
    if settings.kafka.security_protocol == "SASL_PLAINTEXT" and settings.kafka.sasl_mechanism == "PLAIN":
        lines.append("kafka.sasl_mechanism: PLAIN without TLS sends the password in the clear; use SASL_SSL")
    url = settings.database.url
    if url is not None and url.startswith("postgresql:") and not settings.database.tls:
        lines.append("database.tls: is off, so events go to PostgreSQL in the clear; turn it on unless it is local")
    if url is not None and "," in url and url.startswith("postgresql:"):
        lines.append(
            "database.url: names several servers; what got a 2xx is on more than one of them only with "
            "synchronous_standby_names set on the primary"
        )
    if settings.tenants and not any(tenant.api_key for tenant in settings.tenants.values()):
        lines.append("tenants: none has an api_key, so nothing that the webhook misses is found")
    limit = settings.receiver.body_limit_bytes
    slow_s = limit / LARGE_BYTES_PER_S
    patience_s = min(settings.kafka.timeout_s, settings.relay.transaction_timeout_s)
    if settings.kafka.bootstrap_servers and limit > BODY_BYTES and patience_s < slow_s:
        lines.append(
            f"receiver.body_limit_bytes: so large a record may take {slow_s:.0f} s to Kafka; give kafka.timeout_s and "
            "relay.transaction_timeout_s as much, or the relay tries it again and again"
        )
    if settings.kafka.bootstrap_servers and settings.kafka.retention_ms < 0:
        lines.append(
            "kafka.retention_ms: is -1, so topics keep every person's data for ever, also that of a person who was "
            "forgotten here; the log is the archive, so give the topics a limit"
        )
    if settings.backfill.messages != "off":
        lines.append("backfill.messages: listing messages may send read receipts to the people who wrote them")
    return lines


_KEPT: Final = {
    "raw_days": ("the bytes of every delivery", "are"),
    "data_days": ("the data of every event", "is"),
    "texts_days": ("the wording of every message", "is"),
    "parked_days": ("what is parked", "is"),
    "discarded_days": ("what was discarded", "is"),
    "items_days": ("what a backfill read that stands still", "is"),
    "drift_days": ("what backfills found to differ", "is"),
}


def kept_for_ever(settings: Settings) -> list[str]:
    """Return a line for each kind that is kept without an end, with the tenants of which it is."""
    lines = []
    for name, (what, verb) in _KEPT.items():
        ends = (name, "data_days") if name == "raw_days" else (name,)  # the bytes go with the data
        slugs = [slug for slug in settings.tenants if not any(kept_days(settings, slug, one) for one in ends)]
        if slugs:
            whose = "" if len(slugs) == len(settings.tenants) else f" of {', '.join(slugs)}"
            lines.append(f"retention.{name}: {what}{whose} {verb} kept for ever")
    return lines


def kept_days(settings: Settings, slug: str | None, name: str) -> float:
    """Return how many days something is kept for a tenant, or for tenants without values of their own; 0: for ever."""
    own = None if slug is None else getattr(settings.tenants[slug].retention, name)
    days: float = getattr(settings.retention, name) if own is None else own
    return days


NO_TENANTS: Final = (
    "tenants: none is set, so every webhook would get 404; set tenants.<slug>.tenant_id and "
    "tenants.<slug>.webhook_secrets.<name>"
)


def loopback(host: str) -> bool:
    """Tell whether only this machine can reach a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listeners(settings: Settings) -> Iterator[Fault]:
    public, private = settings.public, settings.private
    # A wildcard takes the port on every address. Port 0 is a free one each time.
    if public.port == private.port != 0 and (public.host == private.host or {public.host, private.host} & set(_ANY)):
        yield ("private", "port"), "is the public listener's too; the two need different ports"


def _token(settings: Settings) -> Iterator[Fault]:
    private = settings.private
    if private.token is None and not private.tokens and not loopback(private.host):
        yield ("private", "token"), "is required, since private.host can be reached from other machines"
    known = {} if private.token is None else {private.token.get_secret_value(): "private.token"}
    for name, one in private.tokens.items():
        other = known.setdefault(one.token.get_secret_value(), f"private.tokens.{name}")
        if other != f"private.tokens.{name}":
            yield ("private", "tokens", name, "token"), f"is the same as {other}; each name needs a token of its own"
        if scopes(one.scopes) & {"personal", "operate"} and "read" not in scopes(one.scopes):
            yield ("private", "tokens", name, "scopes"), "should have read too, or it opens nothing"


def _room(settings: Settings) -> Iterator[Fault]:
    # Tenants share the room: one body may take half of it.
    shares = 2 if len(settings.tenants) > 1 else 1
    if settings.receiver.in_flight_limit_bytes < shares * settings.receiver.body_limit_bytes:
        says = "should be at least receiver.body_limit_bytes" + (", twice with several tenants" if shares > 1 else "")
        yield ("receiver", "in_flight_limit_bytes"), says


def _database_url(settings: Settings) -> Iterator[Fault]:
    problem = url_problem(settings.database.url) if settings.database.url is not None else None
    if problem is not None:
        yield ("database", "url"), problem


def url_problem(url: str) -> str | None:
    """Return what is wrong with the URL of a database, None where nothing is."""
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # one host
            parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return "is not a URL (special characters in it must be percent-encoded)"
    sqlite, postgresql = parts.scheme == "sqlite", parts.scheme == "postgresql"
    in_memory = parts.path.strip("/") in ("", ":memory:")
    rules = {
        # An unescaped "/", "?" or "#" in a password moves its rest behind the host.
        "holds a password, and urls are printed; set database.password instead": parts.password is not None
        or "@" in parts.path + parts.query + parts.fragment,
        "should begin with postgresql:// or sqlite:///": not (sqlite or postgresql),
        "should end with the database's name (for TLS set database.tls)": parts.fragment
        or (parts.query and not (postgresql and postgres_url.asks_for_writable(parts.query))),
        "holds characters that cannot be seen, percent-encode them": not url.isprintable()
        or (postgresql and " " in url),
        "should name a file: sqlite:////absolute/path/log.db": sqlite and (parts.netloc or in_memory),
        "should have the form postgresql://user@host:5432/name, or with several hosts postgresql://user@host:5432,"
        "other:5432/name, of which the one that takes writes is used": postgresql and postgres_url.parse(url) is None,
    }
    return next((problem for problem, broken in rules.items() if broken), None)


def _database(settings: Settings) -> Iterator[Fault]:
    database = settings.database
    remote = database.url is not None and database.url.startswith("postgresql:")
    for key in ("password", "tls", "tls_ca_file"):
        if getattr(database, key) and not remote:
            yield ("database", key), "is for PostgreSQL only; set database.url to a postgresql:// URL"
    if remote and database.tls_ca_file is not None and not database.tls:
        yield ("database", "tls_ca_file"), "is of no use without database.tls = true"


def _sasl(settings: Settings) -> Iterator[Fault]:
    kafka = settings.kafka
    wanted = kafka.security_protocol.startswith("SASL_")
    for key in ("sasl_mechanism", "username", "password"):
        present = getattr(kafka, key) is not None
        if wanted and not present:
            yield ("kafka", key), f"is required with kafka.security_protocol = {kafka.security_protocol}"
        if present and not wanted:
            yield ("kafka", key), "is of no use without SASL; set kafka.security_protocol to SASL_SSL"


def _kafka_tls(settings: Settings) -> Iterator[Fault]:
    kafka = settings.kafka
    if not kafka.security_protocol.endswith("SSL"):
        for key in ("ca_file", "cert_file", "key_file"):
            if getattr(kafka, key) is not None:
                yield ("kafka", key), "is of no use without TLS; set kafka.security_protocol to SSL or SASL_SSL"
    elif kafka.key_file is not None and kafka.cert_file is None:
        yield ("kafka", "key_file"), "needs kafka.cert_file beside it"


def _retention(settings: Settings) -> Iterator[Fault]:
    # Brokers take any number; a topic that forgets within the hour forgets what no consumer has read.
    if 0 <= settings.kafka.retention_ms < 3_600_000:
        yield ("kafka", "retention_ms"), "should be -1 (for ever) or at least an hour (3600000)"


def _tenant_ids(settings: Settings) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for slug, tenant in settings.tenants.items():
        other = first.setdefault(canonical(tenant.tenant_id), slug)
        if other != slug:
            yield ("tenants", slug, "tenant_id"), f"is that of tenants.{other} too; one account has one slug"


def _upstream_url(settings: Settings) -> Iterator[Fault]:
    name = ("whatsms", "base_url")
    try:
        parts = urlsplit(settings.whatsms.base_url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        yield name, "is not a URL"
        return
    rules = {
        "should have the form https://host/api/v2": parts.scheme not in ("http", "https")
        or not parts.hostname
        or re.fullmatch(r"[\x21-\x7e]+", settings.whatsms.base_url) is None,
        "holds a user or a password, and urls are printed; the key is tenants.<slug>.api_key": "@" in parts.netloc,
        "should have no query and no fragment": parts.query or parts.fragment,
        "should begin with https://, or every api_key would go over the network in the clear": parts.scheme == "http"
        and not loopback(parts.hostname or "")
        and any(tenant.api_key for tenant in settings.tenants.values()),
    }
    yield from ((name, problem) for problem, broken in rules.items() if broken)


def _privacy(settings: Settings) -> Iterator[Fault]:
    if settings.privacy.suppressions_file is not None and settings.privacy.key is None:
        yield ("privacy", "suppressions_file"), "is of no use without privacy.key"


def _budget(settings: Settings) -> Iterator[Fault]:
    if settings.backfill.requests_per_minute > settings.whatsms.requests_per_minute:
        yield ("backfill", "requests_per_minute"), "should be whatsms.requests_per_minute or fewer"


def _folder(settings: Settings) -> Iterator[Fault]:
    path = settings.data_dir.absolute()
    try:
        there = next((one for one in (path, *path.parents) if one.exists()), path)
    except OSError as exc:  # a name that is too long, a folder above that nobody lets us see
        yield ("data_dir",), f"{path} cannot be used: {(exc.strerror or type(exc).__name__).lower()}"
        return
    if not there.is_dir():
        yield ("data_dir",), f"{there} is a file, not a folder"


def _handover(settings: Settings) -> Iterator[Fault]:
    path, name = settings.handover.socket, ("handover", "socket")
    if path is None:
        return
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        yield name, f"should have at most {SOCKET_PATH_BYTES} bytes, its folder with it"
        return
    try:
        if not path.parent.is_dir():
            yield name, f"{path.parent} is no folder"
        elif path.exists() and not path.is_socket():
            yield name, f"{path} is there and is no socket"
    except OSError as exc:  # a folder above that nobody lets us see
        yield name, f"{path} cannot be used: {(exc.strerror or type(exc).__name__).lower()}"


def _files(*name: str) -> Callable[[Settings], Iterator[Fault]]:
    def check(settings: Settings) -> Iterator[Fault]:
        path = _path(settings, name)
        problem = _unreadable(path) if path is not None else None
        if problem is not None:
            yield name, problem

    return check


def _path(settings: Settings, name: Name) -> Path | None:
    section, key = name
    path: Path | None = getattr(getattr(settings, section), key)
    return path


def _unreadable(path: Path) -> str | None:
    try:
        path.open("rb").close()
    except OSError as exc:
        return f"the file {path} cannot be read: {(exc.strerror or type(exc).__name__).lower()}"
    return None


def _authorities(*name: str) -> Callable[[Settings], Iterator[Fault]]:
    def check(settings: Settings) -> Iterator[Fault]:
        path = _path(settings, name)
        used = settings.database.tls if name[0] == "database" else settings.kafka.security_protocol.endswith("SSL")
        if used and path is not None and _unreadable(path) is None and not _has_certificates(path):
            yield name, f"the file {path} holds no certificate in PEM form"

    return check


def _has_certificates(path: Path) -> bool:
    try:
        return ssl.create_default_context(cafile=path).cert_store_stats()["x509"] > 0
    except OSError:  # ssl.SSLError too
        return False


def _own_certificate(settings: Settings) -> Iterator[Fault]:
    kafka = settings.kafka
    cert, key = kafka.cert_file, kafka.key_file
    usable = kafka.security_protocol.endswith("SSL") and not any(path and _unreadable(path) for path in (cert, key))
    if not usable or cert is None:
        return
    if not _has_certificates(cert):
        yield ("kafka", "cert_file"), f"the file {cert} holds no certificate in PEM form"
        return
    try:
        # The empty password opens no key. Without one, OpenSSL would ask the terminal for an encrypted key's password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except OSError:
        says = f"the file {key or cert} does not hold the certificate's private key in PEM form, without a passphrase"
        yield ("kafka", "key_file" if key else "cert_file"), says


_CHECKS: Final[dict[Callable[[Settings], Iterator[Fault]], tuple[str, ...]]] = {
    _privacy: ("privacy.suppressions_file", "privacy.key"),
    _listeners: ("public.host", "public.port", "private.host", "private.port"),
    _token: ("private.host", "private.token", "private.tokens"),
    _database_url: ("database.url",),
    _room: ("receiver.in_flight_limit_bytes", "receiver.body_limit_bytes"),
    _database: ("database.url", "database.password", "database.tls", "database.tls_ca_file"),
    _sasl: ("kafka.security_protocol", "kafka.sasl_mechanism", "kafka.username", "kafka.password"),
    _kafka_tls: ("kafka.security_protocol", "kafka.ca_file", "kafka.cert_file", "kafka.key_file"),
    _retention: ("kafka.retention_ms",),
    _tenant_ids: (),  # tenants that are wrong are not in the settings
    _upstream_url: ("whatsms.base_url",),
    _budget: ("backfill.requests_per_minute", "whatsms.requests_per_minute"),
    _folder: ("data_dir",),
    _handover: ("handover.socket",),
    _files("database", "tls_ca_file"): ("database.tls_ca_file",),
    _authorities("database", "tls_ca_file"): ("database.tls", "database.tls_ca_file"),
    _authorities("kafka", "ca_file"): ("kafka.security_protocol", "kafka.ca_file"),
    _own_certificate: ("kafka.security_protocol", "kafka.cert_file", "kafka.key_file"),
    _files("kafka", "ca_file"): ("kafka.ca_file",),
    _files("kafka", "cert_file"): ("kafka.cert_file",),
    _files("kafka", "key_file"): ("kafka.key_file",),
}
"""Each check and the settings it looks at."""
