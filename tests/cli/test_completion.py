"""A real shell completes the commands with the script that `completion` prints."""

import subprocess
from pathlib import Path

import pytest

from cli.commands import run

pytestmark = pytest.mark.process

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
$(complete -p whatsms-events | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(script: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of the words."""
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "bash", str(script), "whatsms-events", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    """The script needs no configuration and no service: bash offers commands, a group's commands, options, values."""
    done = run(tmp_path, "completion", "bash", config=None)
    assert (done.status, done.err) == (0, [])
    script = tmp_path / "completion.bash"
    script.write_text("\n".join(done.out))
    assert {"serve", "demo", "events", "parked"} <= completed(script, "")
    assert completed(script, "events", "") == {"list", "show", "tail"}
    assert completed(script, "parked", "ret") == {"retry"}
    assert {"--config", "--tenant", "--json"} <= completed(script, "events", "list", "--")
    assert completed(script, "backfill", "run", "--messages", "") == {"off", "narrow", "full"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_too(shell: str, tmp_path: Path) -> None:
    """The scripts for zsh and fish are their own, and name the commands of the groups."""
    done = run(tmp_path, "completion", shell, config=None)
    assert (done.status, done.err) == (0, [])
    assert any("parked" in line for line in done.out)
    assert done.out[0].startswith("#")


def test_an_unknown_shell_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    """A shell that we have no script for is status 2; the line names those that we have."""
    done = run(tmp_path, "completion", "tcsh", config=None)
    assert (done.status, done.out) == (2, [])
    assert all(name in " ".join(done.err) for name in ("bash", "zsh", "fish"))
