"""`config diff`: how the settings that a process works with differ from what it would read if it were started now."""

import http.client
import json as encoder
import urllib.error
from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from cyclopts import Parameter

from whatsms_events.cli.asking import ask, private_url, refused, strange, token_for
from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.config.render import comparable
from whatsms_events.config.settings import Settings

DEADLINE_S: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
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
    running, salt = _asked(private_url(url, settings), settings)
    differences = dict(_differences(running, comparable(settings, salt)))
    if json:
        print(encoder.dumps({name: {"running": a, "configured": b} for name, (a, b) in differences.items()}))
    for name, (works_with, configured) in () if json else differences.items():
        print(f"{name}: {_said(works_with, configured)}")
    return 1 if differences else 0


def _asked(url: str, settings: Settings) -> tuple[Mapping[str, object], bytes]:
    """Return what the process answers, and the salt of its marks; raise TransientError without such an answer."""
    token = token_for(settings, "read", "operate")
    try:
        with ask(f"{url}/api/v1/settings", token=token, deadline_s=DEADLINE_S) as answer:
            told = encoder.loads(answer.read(ANSWER_LIMIT_BYTES))
            return told["settings"], bytes.fromhex(told["salt"])
    except urllib.error.HTTPError as exc:
        raise refused(url, exc, settings) from exc
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException) as exc:
        raise strange(url) from exc


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
