"""The one broker of a test run: it is there as long as anybody uses it, and gone afterwards."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from servers.kafka import is_ready
from servers.shared import TESTS, folder_of, shared_broker

pytestmark = [pytest.mark.kafka, pytest.mark.usefixtures("_kafka_jars")]

DEADLINE_S = 120.0
USE = """
import sys
from servers.shared import shared_broker
with shared_broker(sys.argv[1]) as broker:
    print(broker.bootstrap, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run() -> str:
    """Name a test run of its own."""
    return uuid4().hex


@contextmanager
def user(run: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Use the run's broker in another process: the process, and the address that it was given."""
    with subprocess.Popen(
        [sys.executable, "-c", USE, run], cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def until_gone(folder: Path) -> bool:
    """Wait until a keeper has ended and removed its folder."""
    until = time.monotonic() + DEADLINE_S
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)  # another process removes it, and tells nobody
    return not folder.exists()


def test_all_processes_of_a_run_have_one_broker_until_the_last_has_left(run: str) -> None:
    """The broker outlives the process that had it started, and a killed user, and ends with the last one."""
    with user(run) as (first, address), shared_broker(run) as ours:
        assert ours.bootstrap == address
        first.kill()
        first.wait(DEADLINE_S)
        assert is_ready(ours.bootstrap)
    assert until_gone(folder_of(run))
    assert not is_ready(address)


def test_who_comes_after_the_end_has_a_new_broker(run: str) -> None:
    """A process that comes when all have left, also in the very moment, has a broker that serves."""
    with shared_broker(run):
        pass
    with shared_broker(run) as broker:
        assert is_ready(broker.bootstrap)
    assert until_gone(folder_of(run))
