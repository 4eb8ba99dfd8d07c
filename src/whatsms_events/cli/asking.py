"""Asks a running process by its private listener: where it is, with which token, and what it means where it refuses."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from whatsms_events.config.settings import Settings
from whatsms_events.domain.scopes import Scope
from whatsms_events.errors import ConfigError, TransientError

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - this machine's own address stands for them


def private_url(url: str | None, settings: Settings) -> str:
    """Return the address of the private listener: the one given, else that of the configuration; raise ConfigError."""
    if url is not None:
        if not _is_address(url):
            raise ConfigError(f"--url {url}: should be http:// or https://, a host, and perhaps a port")
        return url.rstrip("/")
    host = EVERYWHERE.get(settings.private.host, settings.private.host)
    if settings.private.port == 0:
        raise ConfigError("private.port is 0, so the system chose a port: give --url")
    return f"http://[{host}]:{settings.private.port}" if ":" in host else f"http://{host}:{settings.private.port}"


def ask(
    url: str, *, token: str | None, deadline_s: float, headers: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    """Return the open answer of a URL of the listener.

    Raise TransientError where no process answers, HTTPError where it refuses.
    """
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - `private_url` checks the scheme
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    # No proxy of the environment: the token is for this process alone.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer: http.client.HTTPResponse = opener.open(request, timeout=deadline_s)
    except urllib.error.HTTPError:
        raise
    except OSError as exc:  # urllib's URLError is one, and has the socket's own inside
        raise TransientError(
            f"{_origin(url)}: no process answers there: {getattr(exc, 'reason', None) or exc}"
        ) from exc
    except http.client.HTTPException as exc:
        raise strange(url) from exc
    return answer


def token_for(settings: Settings, *needed: Scope) -> str | None:
    """Return a token of the configuration that may do what is needed; None where there are no tokens at all.

    Raise ConfigError where there are some, and none fits.
    """
    token = settings.private.bearer(*needed)
    if token is None and settings.private.tokens:
        scopes = " and ".join(needed)
        raise ConfigError(f"private.tokens: no configured token has the scopes {scopes}, which this command needs")
    return token


def refused(url: str, exc: urllib.error.HTTPError, settings: Settings) -> TransientError:
    """Return what a refusal means."""
    ours = "private.token" if settings.private.token is not None else "the named token of the configuration"
    why = f"{ours} is not the one that it takes" if exc.code == 401 else f"it answers {exc.code}"
    return TransientError(f"{_origin(url)}: {why}")


def strange(url: str) -> TransientError:
    """Return what an answer means that no process of ours gives."""
    return TransientError(f"{_origin(url)}: what answers there is no process of this release")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False
