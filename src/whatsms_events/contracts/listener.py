"""Every route of the private listener, asked of the parts that serve them: no list of paths is written twice."""

import re
from collections.abc import Iterator
from typing import Any, Final

from whatsms_events.clock import now
from whatsms_events.web.api import Api
from whatsms_events.web.documents import ContractFiles
from whatsms_events.web.export import PersonExport
from whatsms_events.web.feed import Feed
from whatsms_events.web.health import Health
from whatsms_events.web.privacy import PrivacyReport
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.running import RunningSettings
from whatsms_events.web.trace import Tracing

_PATTERN: Final = re.compile(r"\{(\w+):[^}]+\}")


def private_routes() -> Iterator[tuple[str, str]]:
    """Yield method and path of every route; the path's placeholders are without their patterns.

    A part that `service` mounts has to be here too: a test compares. The console is not: its pages are for people, and
    may look otherwise tomorrow.
    """
    nothing: Any = None  # routes are asked for, never called
    parts = (
        Api(nothing, {}, nothing),
        Rejects({}, 0, now=now),
        RunningSettings(lambda _salt: {}),
        ContractFiles({}),
        Tracing(nothing, nothing, nothing, {}),
        Feed(nothing, nothing, {}, ()),
        PersonExport(nothing, nothing, nothing, {}),
        PrivacyReport(nothing, nothing, {}, nothing),
        Health(checks={}, needs={}, roles=dict, details=dict, starting=lambda: None, draining=bool),
    )
    for part in parts:
        for route in part.routes():
            yield getattr(route, "method", ""), _PATTERN.sub(r"{\1}", getattr(route, "path", ""))
