"""deploy/kafka/kafka.py where things are missing or go wrong; that it starts a broker, every other test shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from servers.kafka import SCRIPT

JAVA_17 = """#!/bin/sh
echo 'openjdk version "17.0.1" 2021-10-19' >&2
"""
# Fails as often as the file `failures` says, then brings one jar, slowly enough for others to meet it.
MAVEN = """#!/bin/sh
cd "$(dirname "$0")"
echo called >> calls
for option; do case $option in -DoutputDirectory=*) target=${option#*=};; esac; done
mkdir -p "$target"; : > "$target/half.jar"
if [ "$(wc -l < calls)" -le "$(cat failures)" ]; then echo '[ERROR] connection reset'; exit 1; fi
sleep 0.3
: > "$target/kafka_2.13.jar"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Make a folder of programs with a Java that is new enough and a Maven that obeys."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("java", JAVA_17), ("mvn", MAVEN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "failures").write_text("0")
    return folder


def script(tools: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start the script with nothing in its PATH but `tools` and a shell's own programs."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments], env={"PATH": f"{tools}:/bin:/usr/bin", "HOME": str(tools)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_missing_java_and_maven_are_named_in_one_line(tools: Path, tmp_path: Path) -> None:
    """What is missing is named in one line, with exit status 2."""
    (tools / "mvn").unlink()
    for path, missing in (("", "no java"), (str(tools), "no mvn")):
        done = subprocess.run(
            [sys.executable, SCRIPT, "fetch", "--cache", tmp_path / "cache"],
            env={"PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert missing in done.stderr


def test_old_java_is_refused(tools: Path, tmp_path: Path) -> None:
    """A Java before 17, also one that calls itself 1.8, is refused with its version."""
    for version, named in (("11.0.2", "Java 11:"), ("1.8.0_292", "Java 8:")):
        (tools / "java").write_text(JAVA_17.replace("17.0.1", version))
        output, error = (run := script(tools, "fetch", "--cache", tmp_path / "cache")).communicate(timeout=300)
        assert (run.returncode, output) == (2, "")
        assert named in error


def test_parallel_fetches_get_whole_jars_once(tools: Path, tmp_path: Path) -> None:
    """Of fetches at the same time one works and the others wait, and all find the jars whole."""
    cache = tmp_path / "deep" / "cache"
    runs = [script(tools, "fetch", "--cache", cache) for _ in range(4)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4
    assert said == [f"{cache}\n"] * 4
    assert (tools / "calls").read_text() == "called\n"
    assert {path.name for path in cache.iterdir()} == {"half.jar", "kafka_2.13.jar"}


def test_fetch_tries_again_and_leaves_nothing_half(tools: Path, tmp_path: Path) -> None:
    """A failed try is made again and said; what it left behind, or a fetch that was killed, is gone."""
    (tools / "failures").write_text("1")
    (tmp_path / ".cache.killed" / "jars").mkdir(parents=True)
    output, error = (run := script(tools, "fetch", "--cache", tmp_path / "cache")).communicate(timeout=300)
    assert (run.returncode, output) == (0, f"{tmp_path / 'cache'}\n")
    assert "connection reset" in error
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"bin", "cache"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sasl-ssl"],
        ["--sasl-ssl", "--keystore", "k.pem", "--user", "me", "--password", 'a"b'],
        ["--property", "nonsense"],
    ],
)
def test_senseless_options_are_refused(tools: Path, tmp_path: Path, arguments: list[str]) -> None:
    """Options that cannot work are refused with exit status 2, before anything is fetched or made."""
    output, error = (run := script(tools, "start", "--dir", tmp_path / "broker", *arguments)).communicate(timeout=300)
    assert (run.returncode, output) == (2, "")
    assert "Traceback" not in error
    assert not (tmp_path / "broker").exists()
    assert not (tools / "calls").exists()


def suite_without_java(tmp_path: Path, **environ: str) -> tuple[int, str]:
    """Run a test that needs a broker on a machine without Java, Maven and jars; return its status and what it said."""
    test = "tests/servers/test_servers.py::test_witness_reads_committed_records_only"
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test], cwd=SCRIPT.parents[2],
        env=cache | environ, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.slow
def test_suite_without_a_broker_says_loudly_what_it_did_not_test(tmp_path: Path) -> None:
    """On a machine without Java the tests that need a broker are skipped, in a line that counts them and says why."""
    status, said = suite_without_java(tmp_path)
    assert status == 0
    assert "NOT TESTED: 1 tests were skipped: kafka.py: no java in PATH" in said


@pytest.mark.slow
def test_suite_that_requires_a_broker_fails_without_one(tmp_path: Path) -> None:
    """With WHATSMS_TEST_REQUIRE_SERVERS=1 the same is a failure, for the same reason: CI cannot pass without Kafka."""
    status, said = suite_without_java(tmp_path, WHATSMS_TEST_REQUIRE_SERVERS="1")
    assert status == 1
    assert "no java in PATH" in said
    assert "WHATSMS_TEST_REQUIRE_SERVERS=1" in said
    assert "skipped" not in said
