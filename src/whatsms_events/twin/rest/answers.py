"""Reads what a request to the API asks for, strictly, and refuses the rest with the vendor's words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, NoReturn, TypeVar

import msgspec
from aiohttp import web

from whatsms_events.twin.dialects import Dialect, Json, write
from whatsms_events.twin.entities import Id
from whatsms_events.twin.rest.faults import RestFault

PAGE_SIZE: Final = 20
TEXTS: Final[Mapping[int, str]] = {
    400: "Pedido inválido",
    401: "API Key inválida ou em falta",
    403: "Sem permissão para este recurso",
    404: "Recurso não encontrado",
    410: "O recurso foi unido a outro",
    429: "Limite de pedidos atingido. Aguarde antes de tentar novamente.",
    500: "Erro interno do servidor",
}
JSON_TYPE: Final = "application/json; charset=utf-8"
T = TypeVar("T")
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as the verbs of the API see it; `id` is the path's, `page_limit` the largest page there is.

    `is_merged` tells of an id whether lists leave it out because it was merged into another one.
    """

    id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    faults: frozenset[RestFault] = frozenset()
    page_limit: int = 100
    is_merged: Callable[[str], bool] = lambda _id: False


def answer(status: int, body: Json) -> web.Response:
    """Return a response with this JSON."""
    return web.Response(status=status, body=write(body), headers={"Content-Type": JSON_TYPE})


def refused(status: int, text: str | None = None) -> web.Response:
    """Return an error as the vendor writes it."""
    return answer(status, {"error": text or TEXTS.get(status, "")})


def refuse(status: int, text: str | None = None) -> NoReturn:
    """Raise the error, so that a verb ends there and the request gets this answer."""
    kind = web.HTTPNotFound if status == 404 else web.HTTPBadRequest
    raise kind(text=text or TEXTS[status])


def read_body(raw: bytes) -> Json:
    """Return the JSON object in a body; anything else is a 400."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        refuse(400, "O corpo do pedido não é JSON válido")
    if not isinstance(body, dict):
        refuse(400, "O corpo do pedido tem de ser um objeto JSON")
    return body


def read_number(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a parameter that counts from 1; anything else is a 400."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0):
        refuse(400, f"O parâmetro '{name}' tem de ser um número a partir de 1")
    return int(text)


def read_id(dialect: Dialect, value: object, name: str = "id") -> Id:
    """Return an id from a path, a parameter or a body, a number where ids are; anything else is a 400."""
    if not dialect.integer_ids:
        if isinstance(value, str) and value:
            return value
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    elif isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    refuse(400, f"O campo '{name}' não é um ID válido")


def find(entities: Mapping[Id, T], wanted: Id, text: str) -> T:
    """Return the entity with this id; 404 with the text where there is none."""
    found = entities.get(wanted)
    if found is None:
        refuse(404, text)
    return found


def read_choice(fields: Mapping[str, Any], name: str, choices: Sequence[str], default: str = "") -> str:
    """Return one of these words, the default where the name is absent; anything else is a 400."""
    value = fields.get(name, default)
    if isinstance(value, str) and value in choices:
        return value
    refuse(400, f"O campo '{name}' tem de ser {', '.join(choices)}")


def read_text(body: Json, name: str) -> str:
    """Return a text that has to be there and say something; anything else is a 400."""
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        refuse(400, f"O campo '{name}' é obrigatório")
    return value


def read_optional(body: Json, name: str) -> str | None:
    """Return a text, or None where it is null or absent; anything else is a 400."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        refuse(400, f"O campo '{name}' tem de ser texto")
    return value


def read_extra_info(body: Json) -> list[dict[str, str]]:
    """Return the pairs of name and value, none where they are null or absent; anything else is a 400."""
    pairs = body.get("extraInfo") or []
    if isinstance(pairs, list) and all(
        isinstance(pair, dict) and isinstance(pair.get("name"), str) and isinstance(pair.get("value"), str)
        for pair in pairs
    ):
        return [{"name": pair["name"], "value": pair["value"]} for pair in pairs]
    refuse(400, "O campo 'extraInfo' tem de ser uma lista de name e value")


def read_time(body: Json, name: str) -> datetime | None:
    """Return a moment with its zone, or None where it is null or absent; anything else is a 400."""
    try:
        moment: datetime | None = msgspec.convert(body.get(name), _Moment | None)
    except msgspec.ValidationError:
        refuse(400, f"O campo '{name}' tem de ser uma data ISO 8601 com fuso horário")
    return moment
