"""Each dialect of the twin, for long stories and many: `make check` tells them in the documented one."""

from typing import Final

import pytest

from whatsms_events.twin.dialects import DIALECTS

EACH_DIALECT: Final = pytest.mark.parametrize(
    "dialect", [pytest.param(one, marks=() if one == "documented" else pytest.mark.slow) for one in sorted(DIALECTS)]
)
