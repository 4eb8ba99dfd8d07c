"""`/api/v1/privacy`: what is held of people, by tenant and place, for the read API and for `privacy report`."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from aiohttp import web

from whatsms_events.clock import now
from whatsms_events.domain.events import from_micros
from whatsms_events.storage.privacy import ForgottenPerson, Held, HeldPlace, PrivacyCounts
from whatsms_events.storage.reads import Queries, RowView
from whatsms_events.web.questions import json_answer, parameters

Cutoffs = Callable[[str, datetime], Mapping[HeldPlace, int | None]]
"""Returns, for a tenant id and a moment, which times of a place are due for deletion, in microseconds."""

QUESTION_S: Final = 60.0
"""A report asks ten counts of each tenant, and each looks at a million rows at most."""


async def report(
    counts: PrivacyCounts, tenants: Mapping[str, str], cutoffs: Cutoffs, at: datetime, *, turn: Queries
) -> RowView:
    """Return the report of these tenants, by slug with their ids."""
    async with turn.turn():
        sample = await counts.sample()
    found: list[RowView] = []
    for slug, tenant in tenants.items():
        async with turn.turn():
            people = await counts.people(tenant)
            held = await counts.held(tenant, sample, cutoffs(tenant, at))
            forgotten, (in_all, _) = await counts.forgotten(tenant), await counts.forgotten_in_all(tenant)
            unread = await counts.unread(tenant)
        found.append(
            {
                "tenant": slug,
                "tenant_id": tenant,
                "people": people.rows,
                "people_precision": people.precision,
                "held": [_shown(one) for one in held],
                "forgotten_people": in_all,
                "forgotten": [_gone(one) for one in forgotten],
                "unread": unread,
            }
        )
    return {"made_at": at, "tenants": found}


def _shown(held: Held) -> RowView:
    return {
        "place": held.place,
        "rows": held.rows,
        "precision": held.precision,
        "oldest_at": None if held.oldest_at is None else from_micros(held.oldest_at),
        "due": held.due,
    }


def _gone(forgotten: ForgottenPerson) -> RowView:
    times = {
        "forgotten_at": forgotten.forgotten_at,
        "finished_at": forgotten.finished_at,
        "kafka_until": forgotten.kafka_until,
    }
    shown: RowView = {name: None if one is None else from_micros(one) for name, one in times.items()}
    return {"contact_id": forgotten.contact_id, **shown}


class PrivacyReport:
    """Answers with the report. `tenants` maps each slug to its tenant id."""

    def __init__(self, counts: PrivacyCounts, queries: Queries, tenants: Mapping[str, str], cutoffs: Cutoffs) -> None:
        self._counts = counts
        self._queries = queries
        self._cutoffs = cutoffs
        self.change(tenants)

    def change(self, tenants: Mapping[str, str]) -> None:
        """Know these tenants from now on."""
        self._tenants = tenants

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/privacy", self._report)]

    async def _report(self, request: web.Request) -> web.Response:
        parameters(request)
        return json_answer(await report(self._counts, self._tenants, self._cutoffs, now(), turn=self._queries))
