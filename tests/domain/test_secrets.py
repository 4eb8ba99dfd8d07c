"""What is a secret by its name, and what only looks like it."""

import json
import tracemalloc

import pytest

from whatsms_events.domain.secrets import without_secrets

SECRETS = (
    *(
        "authToken",
        "token",
        "TOKEN",
        "access_token",
        "refresh-token",
        "tokenTelegram",
        "facebookUserToken",
        "authtoken",
    ),
    *("secret", "clientSecret", "webhook_secret", "password", "passwordHash", "passwd", "pwd", "smtpPwd", "passphrase"),
    *(
        "apiKey",
        "api_key",
        "apikey",
        "x-api-key",
        "accessKey",
        "privateKey",
        "signingKey",
        "encKey",
        "mediaKey",
        "keys",
    ),
    *("key", "Authorization", "bearer", "credentials", "sessionCookie", "session", "jwt"),
    *("senha", "senhaApp", "segredo", "chave", "credenciais"),
)
OPEN = (
    *("externalKey", "keyword", "keyboard", "monkey", "sessionId", "sessionName", "passenger", "compass", "author"),
    *("name", "id", "", "ñ", "0", "lid", "whatsappLidMap", "desk", "chaves_count"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_name(name: str) -> None:
    """In any spelling, in English and Portuguese, at any depth, in lists, and in JSON that is kept as a text."""
    inner = {name: "hush", "kept": [{name: 5, "also": 1}]}
    clean = {"kept": [{"also": 1}]}
    assert without_secrets(inner) == clean
    assert without_secrets({"a": [[inner]]}) == {"a": [[clean]]}
    assert json.loads(without_secrets({"a": json.dumps(inner)})["a"]) == clean
    assert "hush" not in json.dumps(without_secrets({"a": json.dumps({"b": json.dumps(inner)})}))
    assert without_secrets({"a": json.dumps(inner)[:-3]}) == {"a": None}, "looks like it, and cannot be read"


@pytest.mark.parametrize("name", OPEN)
def test_what_is_no_secret_stays(name: str) -> None:
    """What only has such letters in it, an id of something secret, and what an API's caller is known by."""
    whole = {name: "open", "inside": {name: ["open"]}, "text": json.dumps({name: 1})}
    assert without_secrets(whole) == whole


def test_the_key_of_a_message_and_nothing_at_all_stay() -> None:
    """Baileys' `key` says which message it is; a secret that is null tells only that there is none."""
    whole = {"key": {"remoteJid": "x", "id": "y"}, "apiConfig": None, "authToken": None, "quoted": "[token] {secret:"}
    assert without_secrets(whole) == whole
    text = json.dumps({"key": {"remoteJid": "x"}})
    assert without_secrets({"dataJson": text}) == {"dataJson": text}, "to the byte"
    assert without_secrets({"key": "AKIA"}) == {}


def test_names_that_are_remembered_take_little_room() -> None:
    """Objects with long names, however many come, leave next to nothing behind."""
    tracemalloc.start()
    try:
        for number in range(300):
            without_secrets({f"{number}{'x' * 20_000}": 1})
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
