"""`/api/v1/settings`: the settings that this process works with, for `config diff`. Secrets are shown as marks."""

import secrets
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from whatsms_events.errors import ConfigError
from whatsms_events.web.questions import authenticate, json_answer, parameters

SALT_BYTES: Final = 16


class RunningSettings:
    """Answers with what `comparable` makes of a salt: every setting by its name. `token` guards it, as the API."""

    def __init__(self, comparable: Callable[[bytes], Mapping[str, object]], token: str | None) -> None:
        if token is not None and not token.strip():
            raise ConfigError("private.token is empty")
        self._comparable = comparable
        # One salt for the life of a process: with another one in each answer, the marks of several would add up until
        # a secret could be guessed.
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._token = None if token is None else token.encode()

    def change(self, comparable: Callable[[bytes], Mapping[str, object]], token: str | None) -> None:
        """Answer with other settings from now on, and ask for this token."""
        self._comparable = comparable
        self._token = None if token is None else token.encode()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/settings", self._settings)]

    async def _settings(self, request: web.Request) -> web.Response:
        if self._token is not None:
            authenticate(request, self._token)
        parameters(request)
        return json_answer({"salt": self._salt.hex(), "settings": self._comparable(self._salt)})
