"""The bench works: its deliveries are what they are said to be, and a tiny round counts. No speed is asserted."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bench import command, console, corpus, door
from bench.console_rows import LAST_RUN, LOOKED_AT, of_log
from bench.corpus import Corpus, Requests
from bench.fresh import Seen, Witness
from bench.load import Cores, FailedError, Load, compiled
from bench.progress import Paced, Point, from_first_event
from bench.report import Bar, Finding, write
from bench.stage import Door, SkippedError, Stage, service_door
from bench.targets import PATH, service

from servers.service import SECRET, TENANT
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.signature import HEADER, verify
from whatsms_events.storage.difference import APPENDED

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
KINDS = {"message.ack": "ack", "message.sent": "message", "message.received": "message", "contact.updated": "contact"}


def bodies(count: int) -> list[bytes]:
    """Return the first bodies of the corpus."""
    return list(itertools.islice(Corpus(TENANT, START).bodies(), count))


def test_deliveries_differ_but_for_one_in_a_hundred() -> None:
    """A thousand bodies are all different; behind each thousand ten of them come again."""
    made = bodies(20_200)
    once = Counter(made)
    assert len(once) == 20_000
    assert sum(count == 2 for count in once.values()) == 200


def test_mix_of_deliveries_is_the_announced_one() -> None:
    """60 % acks, 25 % messages, 10 % tickets, 5 % contacts; half of them with five unknown fields in each object."""
    made = [json.loads(body) for body in bodies(10_000)]
    kinds = Counter(KINDS.get(body["event"], "ticket") for body in made)
    assert {kind: round(count / 10_000, 2) for kind, count in kinds.items()} == pytest.approx(
        {kind: share / 100 for kind, share in corpus.MIX.items()}, abs=0.02
    )
    extended = [body for body in made if corpus.EXTRA.items() <= body.items()]
    assert len(extended) / len(made) == pytest.approx(0.5, abs=0.01)
    for body in extended:
        for value in (one for one in body["data"].values() if isinstance(one, dict)):
            assert corpus.EXTRA.items() <= value.items()


def test_every_delivery_is_signed_and_understood() -> None:
    """Each request of the file is a whole one, its signature is right, and its body becomes an event."""
    for body in bodies(2_000):
        head, _, sent = corpus.request(body, PATH, SECRET.encode()).partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert sent == body
        assert int(headers["Content-Length"]) == len(body)
        verify(body, [headers[HEADER]], {"current": SECRET.encode()})
        assert normalize(body, tenant=TENANT, received_at=START).tenant == TENANT


def test_results_say_where_and_what(tmp_path: Path) -> None:
    """Table and JSON name machine, versions, commit, every finding with its bars, and what was left out."""
    finding = Finding("ingest", "SQLite", "bare", [0.5, 0.7, 0.9], bar=Bar(0.6, 0.8), details={"ours/s": 1234.5})
    text = write([finding], ["relay: no Java"], tmp_path, "try", {"rounds": "3"})
    assert "| ingest | SQLite | **0.7** times | 0.5 to 0.9 | bare | 0.6 | 0.8 | must | ours/s 1234 |" in text
    assert "- not measured: relay: no Java" in text
    found = json.loads((tmp_path / "try.json").read_text())
    assert {"commit", "processor", "versions", "system", "rounds"} <= found["about"].keys()
    assert found["findings"][0]["value"] == 0.7
    assert [Bar(0.6, 0.8).judge(value) for value in (0.5, 0.6, 0.8)] == ["missed", "must", "aim"]
    assert [Bar(4, 2, below=True).judge(value) for value in (5, 4, 2)] == ["missed", "must", "aim"]


def test_every_row_says_what_it_is() -> None:
    """The help names each row with a sentence."""
    text = command.parser().format_help()
    for name, row in command.ROWS.items():
        assert row.__doc__
        assert name in text


async def test_a_row_that_fails_takes_no_other_row_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is kept after each row; a row that this machine cannot measure is no fault, a failure is."""

    async def works(_stage: Stage) -> list[Finding]:
        return [Finding("works", "", "", [1.0])]

    async def fails(_stage: Stage) -> list[Finding]:
        raise FailedError("it stands still\nand says so")

    async def lacks(_stage: Stage) -> list[Finding]:
        raise SkippedError("no such thing")

    table = {"works": works, "fails": fails, "lacks": lacks}
    stage = Stage(tmp_path, Load(tmp_path, Cores.found()), rounds=1, seconds=1, python="", events=1)
    kept: list[tuple[int, list[str]]] = []

    def keep(findings: Sequence[Finding], missing: Sequence[str]) -> None:
        kept.append((len(findings), [*missing]))

    assert await command.measure(stage, ["lacks", "works"], keep, table)
    assert not await command.measure(stage, ["fails", "works"], keep, table)
    assert kept == [
        (0, ["lacks: no such thing"]),
        (1, ["lacks: no such thing"]),
        (0, ["fails: it stands still"]),
        (1, ["fails: it stands still"]),
    ]
    assert "and says so" in capsys.readouterr().err


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Give the circumstances of a tiny run."""
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED: no C compiler for the load generator")
    return Stage(tmp_path, Load(compiled(tmp_path), Cores.found()), rounds=1, seconds=0.2, python="", events=1000)


@pytest.mark.process
async def test_a_tiny_round_of_ingest_is_measured(stage: Stage) -> None:
    """Both servers accept deliveries, and the two ratios come with the figures that they are made of."""
    rates, cpus = await door.against_bare(stage, "SQLite", 8, Bar(0.62, 0.80))
    assert len(rates.values) == len(cpus.values) == 1
    assert rates.value > 0
    assert {"ours/s", "reference/s", "ours p99 ms"} <= rates.details.keys()


@pytest.mark.process
async def test_only_accepted_deliveries_count(stage: Stage) -> None:
    """What is refused is answered and not accepted; a constant rate sends as many as were due."""
    async with service_door(stage, service(stage.new_folder())) as ours:
        ours.requests.have(500)
        signed = await stage.load.run(ours.port, ours.requests, connections=4, seconds=0.5, rate=100)
        unsigned = Door(stage, ours.server, ours.port, stage.deliveries(signed=False), repeats=True)
        unsigned.requests.have(20)
        refused = await unsigned.round(4, rate=100)
    assert 0 < signed.answered == signed.accepted == signed.next <= 50  # a busy machine may send fewer
    assert refused.answered > 0
    assert refused.accepted == 0


@pytest.mark.process
async def test_every_page_of_the_console_is_timed(stage: Stage) -> None:
    """With a few tickets in a real service on each database: each page is answered, and its time is a finding."""
    stage.events, stage.rounds = 20, 1
    found = await console.console(stage, asked=2)
    assert len(found) == 2 * (len(console.PAGES) + 1), "and the difference that a run leads to"
    assert all(one.value > 0 for one in found)


@pytest.mark.parametrize("tickets", [3, 20, 5000])
def test_the_consoles_rows_are_as_the_service_writes_them(tickets: int) -> None:
    """Positions are in the order of times, and what the last run found is in the log as soon as the service has it."""
    rows: dict[str, list[dict[str, Any]]] = {
        made.table: [dict(zip(made.columns, row, strict=True)) for row in made.rows] for made in of_log(tickets)
    }
    events, drift = rows["event_log"], rows["backfill_drift"]
    assert [int(one["id"]) for one in events] == list(range(1, tickets + 2))
    times = [one["received_at"] for one in events]
    assert times == sorted(times)
    (found,) = (one["found_at"] for one in drift if (one["run"], one["id"]) == (LAST_RUN, LOOKED_AT))
    (repaired,) = (one["received_at"] for one in events if one["origin"] == "backfill")
    assert 0 < repaired - found < APPENDED / timedelta(microseconds=1)


def test_requests_go_on_where_the_last_round_ended(tmp_path: Path) -> None:
    """The file grows by what is missing, and by no more."""
    requests = Requests(tmp_path / "requests", Corpus(TENANT, START).bodies(), PATH, b"secret")
    requests.have(5)
    size = requests.file.stat().st_size
    requests.next = 2
    requests.have(3)
    assert requests.file.stat().st_size == size
    requests.have(4)
    assert requests.total == 6
    requests.forget()
    requests.have(2)
    assert (requests.next, requests.total) == (0, 2)
    assert requests.file.stat().st_size < size


def test_freshness_counts_from_the_delivery_to_the_first_look_that_saw_the_event(tmp_path: Path) -> None:
    """An event is in the projection at the first look that finds its partition's place at or behind its position."""
    witness, one, other = Witness("nowhere", tmp_path), ("t", 0), ("t", 1)
    witness.looks += [(10.0, {one: 1}), (11.0, {one: 5, other: 2}), (12.0, {one: 9, other: 2})]
    witness.seen += [Seen(one, 5, 9.0, 9.5), Seen(one, 6, 9.0, 9.5), Seen(other, 2, 8.0, 9.5), Seen(one, 1, 8.0, 9.5)]
    assert witness.delays_in_projection() == [2.0, 3.0, 3.0], "the last one was there before anybody looked"
    assert witness.delays_in_kafka() == [0.5, 0.5, 1.5, 1.5]


def test_pace_counts_from_the_first_event_on() -> None:
    """The time before a role begins is not in its rate, and neither is what it used until then."""
    points = [Point(at, done, cpu, 1) for at, done, cpu in [(4.0, 10, 1.0), (5.0, 60, 1.5), (6.0, 110, 2.0)]]
    idle = [Point(0.0, 0, 0.5, 1), Point(3.0, 0, 0.9, 1)]
    paced = Paced(from_first_event([*idle, *points], 110))
    assert paced.rate == 50
    assert paced.cpu_us == pytest.approx(10_000)
    assert from_first_event([*idle, Point(4.0, 110, 2.0, 1)], 110)[0] == idle[1], "over at once: since the look before"
