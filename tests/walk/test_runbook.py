"""Each command of the runbook and of the page on privacy is given by a test."""

import ast
from pathlib import Path
from typing import Final

import pytest

from test_pages import lines

TESTS: Final = Path(__file__).resolve().parents[1]
WALK: Final = "walk/test_walk.py::test_somebody_new_runs_it_breaks_it_and_repairs_it"
REPLAY: Final = "test_pages.py::test_the_tables_are_made_again_as_the_runbook_says"
BACKUP: Final = "test_pages.py::test_a_backup_is_made_and_restored_as_the_runbook_says"
STUCK: Final = "test_pages.py::test_the_stuck_messages_are_listed_as_the_runbook_says"
MOVE: Final = "cli/test_log.py::test_a_log_is_moved_as_the_runbook_says"
FORGET: Final = "cli/test_forget.py::test_somebody_is_forgotten_beside_a_running_service"
PARKED: Final = "cli/test_parked.py::test_parked_deliveries_are_seen_to_beside_a_running_service"

GIVEN: Final = {
    "whatsms-events serve": WALK,
    "systemd-socket-activate": "deploy/test_by_hand.py::test_a_socket_that_is_held_for_us_is_served",
    "whatsms-events config diff": WALK,
    "whatsms-events topics create": WALK,
    "whatsms-events secrets status": "cli/test_secrets.py::test_secrets_status_says_which_secret_may_go",
    "whatsms-events backup": BACKUP,
    "mv var": BACKUP,
    "cp -Rp backups": BACKUP,
    "whatsms-events log verify": "cli/test_log.py::test_a_check_says_what_is_right_and_what_is_not",
    "whatsms-events log copy": MOVE,
    "whatsms-events replay projection": REPLAY,
    "whatsms-events replay status": REPLAY,
    "whatsms-events replay kafka": (
        "workers/test_replay_topics.py::test_a_killed_replay_to_kafka_goes_on_and_each_event_is_there_once"
    ),
    "whatsms-events forget": FORGET,
    "whatsms-events suppressions": FORGET,
    "whatsms-events trace": "cli/test_trace.py::test_an_event_is_followed_by_its_id_its_hash_and_what_it_is_about",
    "whatsms-events privacy report": "cli/test_privacy.py::test_the_report_says_what_is_held_and_names_nobody",
    "whatsms-events privacy keys": "cli/test_privacy.py::test_each_process_is_shown_with_its_key",
    "whatsms-events export": "cli/export/test_export.py::test_a_person_is_exported_beside_a_running_service",
    "whatsms-events parked": PARKED,
    "whatsms-events parked list --config whatsms.toml --stage fold": (
        "cli/test_parked.py::test_parked_events_are_seen_to_like_parked_deliveries"
    ),
    "whatsms-events parked retry --config whatsms.toml --reason": (
        "cli/test_parked.py::test_a_reason_takes_all_that_was_parked_for_it"
    ),
    'curl -s -H "Authorization: Bearer $TOKEN"': WALK,
    "curl -s http://127.0.0.1:8081/": WALK,
    "whatsms-events backfill run": WALK,
    "whatsms-events backfill status": "test_pages.py::test_the_commands_that_need_no_server_run_as_they_stand",
    "python3 -c 'import sqlite3": STUCK,
    'psql "$DATABASE_URL" -c "SELECT ticket.channel': STUCK,
    'psql "$DATABASE_URL" -c "SELECT pg_is_in_recovery()': WALK,
    'psql "$DATABASE_URL" -c "ALTER SYSTEM RESET': WALK,
}
"""How a command begins, and the test that gives it: as it stands, or with the ids, ports and paths of the test."""

RUNBOOK: Final = sorted({line for page, line in lines() if page in ("docs/operate.md", "docs/privacy.md")})


@pytest.mark.parametrize("line", RUNBOOK, ids=[line[:60] for line in RUNBOOK])
def test_each_command_of_the_runbook_is_given_by_a_test(line: str) -> None:
    """The command begins as the list says, and the test that is named there exists."""
    named = [test for begin, test in GIVEN.items() if line.startswith(begin)]
    assert named, f"no test gives `{line}`"
    for test in named:
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_list_has_nothing_that_the_runbook_has_not() -> None:
    """A command that the runbook no longer has leaves the list too."""
    assert [begin for begin in GIVEN if not any(line.startswith(begin) for line in RUNBOOK)] == []
