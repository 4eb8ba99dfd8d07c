"""A retry is told once, in our words, with nothing of the key or of what was asked for."""

from collections.abc import Iterator

import pytest
from stamina.instrumentation import set_on_retry_hooks
from structlog.testing import capture_logs

from servers.virtual_time import virtual
from whatsms.vendor import KEY, TICKET, html, in_turn, say, talking
from whatsms_events.whatsms.transport import announce_retries


@pytest.fixture(autouse=True)
def _hooks() -> Iterator[None]:
    """Give the library its own hooks back afterwards."""
    yield
    set_on_retry_hooks(None)


@virtual
async def test_a_retry_makes_one_line_of_ours() -> None:
    """Which call (without its id), why, which try, for how long: and no line of the library's beside it."""
    announce_retries()
    async with talking(in_turn(html(502, f"<html>{KEY} João</html>"), say(TICKET))) as (_vendor, client):
        with capture_logs() as lines:
            await client.tickets.get("t-secret-1")
    (line,) = lines
    assert (line["event"], line["error"], line["attempts"]) == ("upstream.retrying", "UpstreamUnavailableError", 1)
    assert "502" in line["reason"]
    assert "/tickets/{id}" in line["reason"]
    assert not {word for word in (KEY, "João", "t-secret-1") if word in str(line)}
