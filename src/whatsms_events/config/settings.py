"""This module has every setting with its default, form and bounds. `config/default.toml` says what each one means."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from whatsms_events.config.sources import Name
from whatsms_events.domain.normalize import BODY_BYTES
from whatsms_events.domain.scopes import Scope, scopes

# With PYDANTIC_SETTINGS_DEBUG set the library logs every value it is given at DEBUG, secrets too.
logging.getLogger("pydantic_settings").setLevel(logging.WARNING)

_MIB: Final = 1024 * 1024
RETENTION_MS: Final = 30 * 24 * 3600 * 1000
"""Thirty days: the log is the archive, and Kafka forgets a person by a date that can be named."""
SECRET_MINIMUM: Final = 8
TOKEN_MINIMUM: Final = 16


def _form(pattern: str, says: str) -> AfterValidator:
    """Return a check that the whole text has a form. The message is ours, since pydantic's would be the pattern."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(says)
        return value

    return AfterValidator(check)


def _secret(minimum: int, *, header: bool = False) -> AfterValidator:
    """Return a check of a secret's length and letters; one that goes into an HTTP header has only visible ASCII."""

    def check(secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        if text != text.strip():
            raise ValueError("begins or ends with white space, perhaps a stray newline: remove it")
        if not minimum <= len(text) <= 1024:
            raise ValueError(f"should have {minimum} to 1024 characters")
        if header and re.fullmatch(r"[\x21-\x7e]+", text) is None:
            raise ValueError("should have only letters, digits and signs of ASCII, without spaces")
        return secret

    return AfterValidator(check)


_PORT: Final = r"([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
_BROKER: Final = rf"[^\s:,@/]+:{_PORT}"
_LABEL: Final = r"[a-z0-9]+(_[a-z0-9]+)*"
_LABEL_SAYS: Final = "should be lower-case letters and digits, joined by single underscores, at most"
# Environment variables hold a slug in capitals, between double underscores: hence its form.
Slug = Annotated[str, _form(rf"(?=.{{1,64}}\Z){_LABEL}", f"{_LABEL_SAYS} 64 characters")]
# Shorter than a digest: a secret written where its name belongs is refused, not shown as a name.
SecretName = Annotated[str, _form(rf"(?=.{{1,31}}\Z){_LABEL}", f"{_LABEL_SAYS} 31 characters")]
Host = Annotated[str, _form(r"[0-9A-Za-z.:_-]{1,255}", "should be a host name or an address")]
Port = Annotated[int, Field(ge=0, le=65535)]
Password = Annotated[SecretStr, _secret(1)]
Token = Annotated[SecretStr, _secret(TOKEN_MINIMUM, header=True)]
WebhookSecret = Annotated[SecretStr, _secret(SECRET_MINIMUM)]
Interval = Annotated[float, Field(ge=0.01, le=60)]
Days = Annotated[float, Field(ge=0, le=31_622_400)]
KeptDays = Annotated[float, Field(ge=0, le=36_500)]
"""Days after which something is not kept any more; 0 is for ever."""
OwnDays = Annotated[float | None, Field(ge=0, le=36_500)]
Parameter = Annotated[str, _form(r"[A-Za-z0-9_.\[\]-]{1,64}", "should be the name of a query parameter")]


def _place(path: Path) -> Path:
    """Refuse a path that no file can have, and the home of an unknown user; `load` has filled in known homes."""
    if "\0" in str(path):
        raise ValueError("should be a path")
    if str(path).startswith("~"):
        raise ValueError("begins with ~ and a name that nobody has on this machine")
    return path


PathSetting = Annotated[Path, AfterValidator(_place)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true for a number: Python takes it for a 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("should not be a switch")
        return value


class Public(_Section):
    """The listener the vendor reaches: webhooks, nothing else."""

    host: Host = "0.0.0.0"  # noqa: S104 - the vendor comes from outside; only signed webhooks are served here
    port: Port = 8080


def _scopes(text: str) -> str:
    scopes(text)
    return text


class TokenSettings(_Section):
    """One more token of the private listener, for those who may do less."""

    token: Token
    scopes: Annotated[str, AfterValidator(_scopes)]


class Private(_Section):
    """The listener for operators: read API, health, metrics."""

    host: Host = "127.0.0.1"
    port: Port = 8081
    token: Token | None = None
    tokens: dict[SecretName, TokenSettings] = {}
    feed_readers_limit: int = Field(default=500, ge=0, le=10_000)

    def bearer(self, *needed: Scope) -> str | None:
        """Return a token that may do what is needed, for our own commands; None where there is none."""
        if self.token is not None:
            return self.token.get_secret_value()
        fit = (one.token.get_secret_value() for one in self.tokens.values() if scopes(one.scopes).issuperset(needed))
        return next(fit, None)


class Handover(_Section):
    """How a process gives its listening sockets to the one that replaces it, where no systemd holds them."""

    socket: PathSetting | None = None


class ReceiverSettings(_Section):
    """How much the receiver takes in, and how long a sender waits for its answer."""

    # An event's record may be half as large again (`normalize.record_limit_bytes`): 96 MiB, and no more than 100 MiB go
    # to a broker in one request (its `socket.request.max.bytes`).
    body_limit_bytes: int = Field(default=BODY_BYTES, ge=1024, le=64 * _MIB)
    in_flight_limit_bytes: int = Field(default=256 * _MIB, ge=_MIB, le=65536 * _MIB)
    queue_limit: int = Field(default=10_000, ge=1, le=1_000_000)
    # One statement on SQLite holds at most 32,766 values.
    batch_limit: int = Field(default=500, ge=1, le=2000)
    deadline_s: float = Field(default=3.0, ge=0.1, le=60)
    drain_s: float = Field(default=10.0, ge=0, le=600)
    leave_s: float = Field(default=0.0, ge=0, le=600)
    idle_s: float = Field(default=0.5, ge=0, le=600)
    keep_rejects: int = Field(default=0, ge=0, le=100)


class DatabaseSettings(_Section):
    """Where the log and the projection are; without `url` two SQLite files in `data_dir`."""

    url: str | None = None
    password: Password | None = None
    tls: bool = False
    tls_ca_file: PathSetting | None = None


class Kafka(_Section):
    """Where events are published. Without `bootstrap_servers` they are not, and the projection reads the log."""

    bootstrap_servers: (
        Annotated[str, _form(rf"{_BROKER}(,{_BROKER})*", "should be host:port, or several with commas")] | None
    ) = None
    topic_prefix: Annotated[
        str, _form(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", "should be up to 200 of letters, digits, dot, dash, underscore")
    ] = "whatsms"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    password: Password | None = None
    ca_file: PathSetting | None = None
    cert_file: PathSetting | None = None
    key_file: PathSetting | None = None
    timeout_s: float = Field(default=10.0, ge=0.5, le=120)
    partitions: int = Field(default=12, ge=1, le=1000)
    replication_factor: int = Field(default=1, ge=1, le=10)
    retention_ms: int = Field(default=RETENTION_MS, ge=-1, le=2**63 - 1)


class RelaySettings(_Section):
    """How the relay publishes the log to Kafka."""

    batch_limit: int = Field(default=4000, ge=1, le=10_000)
    poll_interval_s: Interval = 0.1
    # The broker's own `transaction.max.timeout.ms` is 15 minutes unless somebody changed it.
    transaction_timeout_s: float = Field(default=10.0, ge=1, le=900)
    check_interval_s: float = Field(default=2.0, ge=0.1, le=300)


class ConsumerSettings(_Section):
    """How the consumer applies events to the projection."""

    batch_limit: int = Field(default=10_000, ge=1, le=10_000)
    poll_interval_s: Interval = 0.1
    retry_parked: bool = False


class SealerSettings(_Section):
    """How closed parts of the log are sealed, so that `log verify` can tell what was changed in them."""

    enabled: bool = True
    interval_s: float = Field(default=60.0, ge=0.1, le=86_400)


class RetentionSettings(_Section):
    """How many days what is kept of people is kept; 0 is for ever. What only serves the operator has an end."""

    raw_days: KeptDays = 0.0
    data_days: KeptDays = 0.0
    texts_days: KeptDays = 0.0
    parked_days: KeptDays = 90.0
    discarded_days: KeptDays = 7.0
    rejects_days: KeptDays = 1.0
    items_days: KeptDays = 30.0
    drift_days: KeptDays = 90.0


class TenantRetention(_Section):
    """The same for one tenant; what is not set is as in `retention`."""

    raw_days: OwnDays = None
    data_days: OwnDays = None
    texts_days: OwnDays = None
    parked_days: OwnDays = None
    discarded_days: OwnDays = None
    rejects_days: OwnDays = None
    items_days: OwnDays = None
    drift_days: OwnDays = None


class Whatsms(_Section):
    """How the vendor's REST API is spoken to, where a tenant has a key for it."""

    base_url: Annotated[str, Field(min_length=1, max_length=2000)] = "https://api.whatsms.pt/api/v2"
    requests_per_minute: int = Field(default=300, ge=1, le=60_000)
    timeout_s: float = Field(default=30.0, ge=1, le=300)
    # The vendor's page names none of these; what it ignores shows as UpstreamPagingError, which names the setting.
    page_parameter: Parameter = "page"
    limit_parameter: Parameter = "limit"
    status_parameter: Parameter = "status"


class BackfillSettings(_Section):
    """What is read from the REST API to repair what the webhooks missed, how fast and when."""

    requests_per_minute: int = Field(default=120, ge=1, le=60_000)
    page_size: int = Field(default=100, ge=1, le=100)
    details: Literal["all", "changed"] = "all"
    messages: Literal["off", "narrow", "full"] = "off"
    interval_s: Days = 86_400.0
    outage_s: Days = 300.0
    repair_interval_s: Days = 300.0
    settle_s: float = Field(default=10.0, ge=0, le=3600)
    absence_s: float = Field(default=60.0, ge=0, le=86_400)
    gone_share: float = Field(default=0.1, ge=0, le=1)


class WatchdogSettings(_Section):
    """When silence at the door is a fault."""

    gaps: float = Field(default=20.0, ge=1, le=10_000)
    floor_s: float = Field(default=600.0, ge=1, le=604_800)
    probe_interval_s: float = Field(default=300.0, ge=1, le=86_400)


class Privacy(_Section):
    """What erasing a person needs: a key of its own, and where those who were forgotten are kept beside the log."""

    key: Annotated[SecretStr, _secret(TOKEN_MINIMUM)] | None = None
    suppressions_file: PathSetting | None = None


class Logs(_Section):
    """Which log lines are written."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class TenantSettings(_Section):
    """One account with the vendor. The slug is only its part of the URL; `tenant_id` names the account."""

    tenant_id: Annotated[
        str,
        # PostgreSQL takes no NUL, and other control characters cannot be seen.
        _form(r"(?!.*[\x00-\x1f\x7f])\S(.{0,198}\S)?", "should be 1 to 200 characters without white space around"),
    ]
    api_key: Annotated[SecretStr, _secret(1, header=True)] | None = None
    webhook_secrets: Annotated[dict[SecretName, WebhookSecret], Field(min_length=1)]
    retention: TenantRetention = TenantRetention()


class Settings(BaseSettings):
    """Everything an operator can set. Made by `load`, which also does the checks across fields."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data_dir: PathSetting = Path("var")
    public: Public = Public()
    private: Private = Private()
    handover: Handover = Handover()
    receiver: ReceiverSettings = ReceiverSettings()
    database: DatabaseSettings = DatabaseSettings()
    kafka: Kafka = Kafka()
    relay: RelaySettings = RelaySettings()
    consumer: ConsumerSettings = ConsumerSettings()
    sealer: SealerSettings = SealerSettings()
    retention: RetentionSettings = RetentionSettings()
    whatsms: Whatsms = Whatsms()
    backfill: BackfillSettings = BackfillSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    privacy: Privacy = Privacy()
    logs: Logs = Logs()
    tenants: dict[Slug, TenantSettings] = {}

    _origins: dict[Name, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from `load` only: the library's own sources ignore misspelt names and missing files."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def known(like: Name) -> list[Name]:
    """Return the name of every setting; the keys of mappings are those of `like` where it has them."""
    return [name for name, _kind in _fields(Settings, like)]


def places() -> frozenset[Name]:
    """Return the names of the settings that are paths."""
    return frozenset(name for name, kind in _fields(Settings, ()) if Path in _kinds(kind))


def _kinds(kind: Any) -> Iterator[Any]:
    """Yield a type and the types inside it: a path that may be None is a union with a path inside."""
    yield kind
    for inner in get_args(kind):
        yield from _kinds(inner)


def _fields(at: Any, like: Name) -> Iterator[tuple[Name, Any]]:
    children: dict[str, Any] = {}
    if get_origin(at) is dict:
        children = {like[0] if like else "name": get_args(at)[1]}
    elif isinstance(at, type) and issubclass(at, BaseModel):
        children = {name: field.annotation for name, field in at.model_fields.items()}
    if not children:
        yield (), at
    for name, child in children.items():
        for rest, kind in _fields(child, like[1:]):
            yield (name, *rest), kind
