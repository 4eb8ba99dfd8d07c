"""`/api/v1/settings`: the settings that this process works with, for `config diff`. Secrets are shown as marks."""

import secrets
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from whatsms_events.web.access import require
from whatsms_events.web.questions import json_answer, parameters

SALT_BYTES: Final = 16


class RunningSettings:
    """Answers with what `comparable` makes of a salt: every setting by its name."""

    def __init__(self, comparable: Callable[[bytes], Mapping[str, object]]) -> None:
        self._comparable = comparable
        # One salt for the life of a process: with another one in each answer, the marks of several would add up until
        # a secret could be guessed.
        self._salt = secrets.token_bytes(SALT_BYTES)

    def change(self, comparable: Callable[[bytes], Mapping[str, object]]) -> None:
        """Answer with other settings from now on."""
        self._comparable = comparable

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/settings", self._settings)]

    async def _settings(self, request: web.Request) -> web.Response:
        require(request, "operate")
        parameters(request)
        return json_answer({"salt": self._salt.hex(), "settings": self._comparable(self._salt)})
