"""What `test_templates` renders every template with: each needs its row in `CONTEXTS`, made of one text of anybody.

The text stands wherever a value of the vendor, of a person or of another process can be.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args
from uuid import UUID

from whatsms_events.domain.drift import Count
from whatsms_events.domain.rotation import SecretStanding
from whatsms_events.domain.standing import PeerReport, RoleReport, RoleWord
from whatsms_events.storage.difference import Difference, FieldDifference
from whatsms_events.storage.log.parked import ParkedDelivery
from whatsms_events.storage.log.peers import Peer, PeerId
from whatsms_events.storage.projection.parked import ParkedEvent, ReadPlace
from whatsms_events.storage.pulse import Flow, ParkedCount, ParkedCounts
from whatsms_events.storage.reads import RowPage, RowView
from whatsms_events.storage.repair.reports import ItemCounts, Options, Overview, Run, RunInfo
from whatsms_events.storage.role_holders import RoleHolder
from whatsms_events.web.console.frame import Brought, ConsoleTenant
from whatsms_events.web.console.now import NowSeen, TenantNow
from whatsms_events.web.console.parked import ParkedChoice, ParkedPlace, ParkedRow
from whatsms_events.web.console.places import place
from whatsms_events.web.console.repair import RunRow, ShownReport, TenantRepair
from whatsms_events.web.console.roles import Roles
from whatsms_events.web.console.stations import Station
from whatsms_events.web.health import Readiness
from whatsms_events.web.views import ShownProgress

NOW: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)
AGO: Final = NOW - timedelta(minutes=3)

Context = Callable[[str], Mapping[str, Any]]


def _now(text: str) -> Mapping[str, Any]:
    counts = ParkedCounts([ParkedCount("door", text, 3, AGO)], whole=True)
    seen = NowSeen(
        readiness=Readiness(ready=False, draining=False, checks={text: text}, roles={text: text}, details={}),
        flow=Brought(Flow(7, AGO, 5, AGO, AGO)),
        applied=Brought((6, AGO)),
        uses=Brought([]),
        peers=Brought(None, text),
        holders=Brought({}),
        overviews=Brought([Overview(text, "repair", 4, AGO, {("ticket", text): 2}, None, AGO)]),
        parked=(Brought(counts), Brought(None, text)),
    )
    secret = SecretStanding(text, AGO, AGO, 1, "retiring", safe_to_retire=True, why=text)
    watchdog = {"state": text, "usual_gap_s": 2.0}
    door = {"clock": "differs", "clock_offset_s": 9.0}
    return {
        "refresh_s": 5,
        "seen": seen,
        "roles": _roles(text),
        "stations": [Station(text, "bad", text, text)],
        "verdict": ("bad", text),
        "tenants": [TenantNow(text, AGO, [secret], watchdog, door)],
        "rates": [("received", text, [None, 1.0, 2.5])],
        "empty": True,
    }


def _roles(text: str) -> Roles:
    """Return this process and two others, of which one is not heard of."""
    reports = {
        f"{number} {text}": RoleReport(word=word, why=text, todo=text, since=AGO)
        for number, word in enumerate(get_args(RoleWord))
    }
    report = PeerReport(
        roles={**reports, text: reports[f"0 {text}"]}, details={f"door.{text}": {"clock": text}}, more=3
    )
    told = [Peer(PeerId(f"{number} {text}", AGO), silent_s, report) for number, silent_s in enumerate((1, 99))]
    holder = RoleHolder(ours=False, who=text, since=AGO)
    return Roles(PeerId(text, AGO), reports, told, {f"2 {text}": holder, f"held {text}": holder})


def _row(text: str) -> ParkedRow:
    event = ParkedEvent(ReadPlace(text, 3), None, None, text, text, text, text, AGO, 12, AGO)
    return ParkedRow(event, text, AGO)


def _delivery_row(text: str) -> ParkedRow:
    one = ParkedDelivery(UUID(int=3), text, text, text, AGO, text, b"", text, 2, 12)
    return ParkedRow(one, text)


def _parked(text: str) -> Mapping[str, Any]:
    counts = ParkedCounts([ParkedCount("fold", text, 3, AGO)], whole=False)
    gone = ParkedCount("fold", text, 3, AGO, AGO)
    return {
        "places": [
            ParkedPlace("door", Brought(None, text), Brought(None, text)),
            ParkedPlace("fold", Brought(counts), Brought(ParkedCounts([gone] * 3, whole=False))),
        ],
        "stage": "door",
        "reason": text,
        "discarded": False,
        "reached": text,
        "shown_discards": 2,
        "rows": Brought([_delivery_row(text)]),
        "more": None,
        "nothing": False,
    }


def _run(text: str) -> RunRow:
    options = Options()
    run = Run(3, text, "reconcile", text, options, 1, AGO, b"{}")
    count = Count(entity="ticket", kind="stale", age="older", count=2)
    report = ShownReport(
        looked_at={text: 3},
        drift=(count,),
        unsettled=1,
        unstable=(text,),
        ended={text: text},
        forbidden=1,
        forbidden_names=(text,),
        held_back={text: {"extra": 3, "limit": 2}},
    )
    return RunRow(
        RunInfo(run, AGO, None, ItemCounts(3, 2), None, text),
        ShownProgress(phase=text, expected=9, stopped=text),
        report,
    )


def _tenants(text: str) -> Mapping[str, Any]:
    tenant = ConsoleTenant(text, (text,), keyed=True)
    return {
        "tenants": [TenantRepair(text, tenant, Brought([_run(text)], text), here=True, halted=text)],
        "usual": Options(),
        "refresh_s": 2,
    }


def _repair_run(text: str) -> Mapping[str, Any]:
    row: RowView = {"entity": "ticket", "id": text, "kind": text, "fields": [text], "age_s": None, "found_at": AGO}
    return {
        "slug": text,
        "run": _run(text),
        "page": Brought(RowPage([row], None)),
        "more": None,
        "asked": {"kind": text},
    }


def _difference(text: str) -> Mapping[str, Any]:
    fields = [FieldDifference(text, text, text, personal=one) for one in (True, False)]
    found = Brought(Difference(3, AGO, fields, whole=False))
    links = {"further": place("/repair/difference", id=text), "place": place}
    return {"slug": text, "entity": "ticket", "id": text, "run": text, "difference": found, **links}


def _live(text: str) -> Mapping[str, Any]:
    asked = dict.fromkeys(("tenant", "type", "ticket"), text)
    lists = {"tenants": (text,), "types": (text,)}
    return {**lists, "asked": asked, "feed": text, "trouble": "", "ended": text, "rows": 200}


CONTEXTS: Final[Mapping[str, Context]] = {
    "now.html": _now,
    "now_piece.html": _now,
    "live.html": _live,
    "refused.html": lambda text: {"title": text, "sentence": text},
    "sign_in.html": lambda text: {"to": text, "wrong": text},
    "parked.html": _parked,
    "parked_one.html": lambda text: {"row": _row(text), "text": text, "cut": True},
    "parked_discard.html": lambda text: {"choice": ParkedChoice(None, "door", text), "row": _row(text), "over": True},
    "repair.html": _tenants,
    "repair_piece.html": _tenants,
    "repair_run.html": _repair_run,
    "repair_difference.html": _difference,
}
"""Each template that is a page or a piece of one."""

LARGE: Final[Mapping[str, Context]] = {
    "repair_difference.html": lambda text: {
        **_difference("x"),
        "difference": Brought(Difference(3, AGO, [FieldDifference("body", text, text, personal=True)], whole=True)),
    },
}
"""Those that show what a person wrote, however long, with such a text where that stands."""

PARTS: Final = {"layout.html", "parts.html"}
"""What the others are made of."""

ELSEWHERE: Final = {"acks.html", "choices.html", "conversations.html", "passport.html", "ticket.html"}
"""Those that `test_hostile` renders with rows that Hypothesis makes."""
