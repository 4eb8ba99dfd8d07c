"""The dialects of the twin, for long stories and many: `make check` tells them in the documented one."""

from collections.abc import Iterable
from typing import Final

import pytest

from servers.compare import LONG
from whatsms_events.twin.dialects import DIALECTS

DOCUMENTED: Final = "documented"
HARD: Final = ("no-updated-at", "send-time")
"""Nothing says which version is newer; a webhook that comes again is another event. The rest only looks different, and
`tests/backfill/test_fields.py` repairs an account in each of them.
"""


def _told_in(dialects: Iterable[str]) -> pytest.MarkDecorator:
    marks = {DOCUMENTED: ()}
    return pytest.mark.parametrize(
        "dialect", [pytest.param(one, marks=marks.get(one, pytest.mark.slow)) for one in sorted(dialects)]
    )


EACH_DIALECT: Final = _told_in(DIALECTS)
HARD_DIALECTS: Final = _told_in(DIALECTS if LONG else (DOCUMENTED, *HARD))
"""The documented one and the hard ones; each one in the long form."""
