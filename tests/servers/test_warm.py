"""A fork of the warm parent is for a test what a process of its own is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servers import warm
from servers.service import Service
from servers.test_servers import is_alive

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    "words", [["config", "show", "--config", "none.toml"], ["--help"], ["parked", "list", "--config", "w.toml"], ["no"]]
)
def test_a_command_says_and_leaves_what_it_does_as_a_program(words: list[str], tmp_path: Path) -> None:
    """Arguments, folder, environment, both outputs and the status are those of `python -m whatsms_events`."""
    environ = {**os.environ, "WHATSMS_EVENTS_PUBLIC__PORT": "eighty", "COLUMNS": "100"}
    (tmp_path / "w.toml").write_text('data_dir = "here"')
    line = [sys.executable, "-m", "whatsms_events", *words]
    real = subprocess.run(
        line, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    done = warm.run(words, tmp_path, environ=environ)
    assert (done.returncode, done.stdout, done.stderr) == (real.returncode, real.stdout, real.stderr)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_signal_reaches_it_and_its_status_says_so(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM ends a service in good order, SIGKILL at once; the next one has its port, and another pid."""
    service = Service(tmp_path, roles="receiver")
    pids = set()
    for _ in range(2):
        await service.start()
        pids.add(service.pid)
        service.signal(number)
        await service.gone(120)
        assert service.status == (-9 if number == signal.SIGKILL else 0)
    assert len(pids) == 2


async def test_it_is_in_a_session_of_its_own_and_can_be_frozen(tmp_path: Path) -> None:
    """A frozen service answers nobody, thawed it goes on; Ctrl-C at the terminal of the tests is not for it."""
    service = Service(tmp_path, roles="receiver")
    await service.start()
    assert service.pid
    assert os.getsid(service.pid) == service.pid
    await service.freeze()
    assert not await service.serves()
    assert service.status is None
    await service.thaw()
    assert await service.serves()
    await service.stop()
    assert service.status == 0


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import asyncio
from pathlib import Path
from servers import warm
from servers.service import Service

async def main():
    service = Service(Path(sys.argv[2]), roles="receiver")
    await service.start()
    print(service.pid, warm.parent().pid, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def test_it_and_its_parent_end_with_the_tests_that_are_killed(tmp_path: Path) -> None:
    """Of a test run that dies of SIGKILL neither the warm parent nor a service is left."""
    line = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        pids = [int(word) for word in tests.stdout.readline().split()]
        assert [is_alive(pid) for pid in pids] == [True, True]
        tests.kill()
    until = time.monotonic() + 120
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert [is_alive(pid) for pid in pids] == [False, False]
