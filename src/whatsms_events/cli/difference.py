"""`config diff`: how the settings that a process works with differ from what it would read if it were started now."""

import http.client
import json as encoder
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.config.render import comparable
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError, TransientError

DEADLINE_S: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - this machine's own address stands for them
UNSET: Final = "not set"


def diff(
    *,
    url: Annotated[str | None, Parameter(show_default=False)] = None,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Compare the settings of a running process with the configuration as it is now, a line for each difference.

    Status 0: they are the same. Status 1: they differ, or the process does not answer. No secret is shown.

    Parameters
    ----------
    url
        Where the private listener of the process is; private.host and private.port of the configuration by default.
    json
        Print one object: by the setting's name, its value in the process and in the configuration.
    """
    settings = options.load()
    running, salt = _asked(url or _private_url(settings), settings)
    differences = dict(_differences(running, comparable(settings, salt)))
    if json:
        print(encoder.dumps({name: {"running": a, "configured": b} for name, (a, b) in differences.items()}))
    for name, (works_with, configured) in () if json else differences.items():
        print(f"{name}: {_said(works_with, configured)}")
    return 1 if differences else 0


def _private_url(settings: Settings) -> str:
    host = EVERYWHERE.get(settings.private.host, settings.private.host)
    if settings.private.port == 0:
        raise ConfigError("private.port is 0, so the system chose a port: give --url")
    return f"http://[{host}]:{settings.private.port}" if ":" in host else f"http://{host}:{settings.private.port}"


def _asked(url: str, settings: Settings) -> tuple[Mapping[str, object], bytes]:
    """Return what the process answers, and the salt of its marks; raise TransientError without such an answer."""
    if not _is_address(url):
        raise ConfigError(f"--url {url}: should be http:// or https://, a host, and perhaps a port")
    request = urllib.request.Request(f"{url.rstrip('/')}/api/v1/settings")  # noqa: S310 - the scheme is checked above
    token, private = settings.private.bearer("read", "operate"), settings.private
    if token is None and private.tokens:
        raise ConfigError(
            "private.tokens: no configured token has the scopes read and operate, which this command needs"
        )
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    # No proxy of the environment: the token is for this process alone.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=DEADLINE_S) as answer:
            told = encoder.loads(answer.read(ANSWER_LIMIT_BYTES))
            return told["settings"], bytes.fromhex(told["salt"])
    except urllib.error.HTTPError as exc:
        ours = "private.token" if private.token is not None else "the named token of the configuration"
        why = f"{ours} is not the one that it takes" if exc.code == 401 else f"it answers {exc.code}"
        raise TransientError(f"{url}: {why}") from exc
    except OSError as exc:  # urllib's URLError is one, and has the socket's own inside
        raise TransientError(f"{url}: no process answers there: {getattr(exc, 'reason', None) or exc}") from exc
    except (ValueError, KeyError, TypeError, http.client.HTTPException) as exc:
        raise TransientError(f"{url}: what answers there is no process of this release") from exc


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False


def _differences(
    running: Mapping[str, object], configured: Mapping[str, object]
) -> Iterator[tuple[str, tuple[object, object]]]:
    for name in sorted(running.keys() | configured.keys()):
        one, other = running.get(name), configured.get(name)
        if one != other:
            yield name, (one, other)


def _said(running: object, configured: object) -> str:
    if all(isinstance(one, dict) and "mark" in one for one in (running, configured)):
        return "the configuration has another secret"
    return f"running {_shown(running)}, configured {_shown(configured)}"


def _shown(value: object) -> str:
    if value is None:
        return UNSET
    return "a secret" if isinstance(value, dict) and "mark" in value else encoder.dumps(value, ensure_ascii=False)
