"""What the Dockerfile makes, without Docker: its steps in a folder of the test, and the result in a read-only root."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import aiohttp
import pytest

from conftest import missing
from servers.compare import LONG
from servers.process import Server
from servers.service import Service
from servers.tools import ROOT, found, ran
from servers.warm import Program
from test_journey import delivery, post

pytestmark = pytest.mark.process

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HOME: Final = "/opt/whatsms-events"
(USER,) = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)

IN_A_ROOT: Final = """
set -eu
root=$1; home=$2; data=$3; config=$4; user=$5; shift 5
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$root"
for folder in /usr /bin /lib /lib64 /etc /dev /proc "$@"; do
    if [ -L "$folder" ]; then cp -P "$folder" "$root$folder"; continue; fi
    [ -d "$folder" ] || continue
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
    mount -o remount,bind,ro "$root$folder"
done
mkdir -p "$root$data" "$root/config"
mount --bind "$data" "$root$data"
cp "$config" "$root/config/whatsms.toml"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups --bounding-set=-all --inh-caps=-all \\
    --no-new-privs env -i "PATH=$home/bin:/usr/bin" PYTHONDONTWRITEBYTECODE=1 \\
    WHATSMS_EVENTS_CONFIG=/config/whatsms.toml "WHATSMS_EVENTS_DATA_DIR=$data" \\
    whatsms-events serve --roles receiver,consumer
"""
"""A root of its own, as a container has: read-only but for the folder of the data; no capability, no root, no /tmp."""


def steps() -> list[str]:
    """Return the commands of the stage that builds, each RUN taken apart."""
    stage = DOCKERFILE.partition("AS build")[2].partition("\nFROM ")[0].replace("\\\n", " ")
    return [command for run in re.findall(r"^RUN (.*)$", stage, re.MULTILINE) for command in run.split("&&")]


@pytest.fixture
def image() -> Iterator[Path]:
    """Give the virtual environment that the steps of the Dockerfile make.

    In the short form the locked packages are not installed again: they are those of the tests' own environment.
    """
    found("setpriv")
    if subprocess.run([found("unshare"), "--mount", "true"], capture_output=True, check=False, timeout=60).returncode:
        missing("no right to unshare: the image's steps were not run in a root of their own")
    # Whoever is not root must reach it, which the folders of pytest do not allow.
    top = Path(tempfile.mkdtemp(prefix="whatsms-events-image-"))
    top.chmod(0o755)
    source, home = top / "src", top / "home"
    source.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    python = str(Path(sys.executable).resolve())
    try:
        for command in steps():
            words = [python if word == "python" else word.replace(HOME, str(home)) for word in shlex.split(command)]
            if LONG or ("--require-hashes" not in words and "uninstall" not in words):
                ran(*words, cwd=source, environ={"PIP_DISABLE_PIP_VERSION_CHECK": "1"}, timeout_s=600)
            elif "--require-hashes" in words:
                (site,) = home.glob("lib/python*/site-packages")
                (site / "locked.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
        yield home
    finally:
        shutil.rmtree(top)


class Contained(Service):
    """The service as its image runs it: from a virtual environment in a read-only root, by a user who is nobody."""

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(folder, roles="receiver,consumer")
        self.home = home
        self.root, self.data = home.parent / "root", home.parent / "data"
        self.root.mkdir()
        self.data.mkdir(mode=0o700)
        os.chown(self.data, int(USER), int(USER))

    def command(self) -> Sequence[str]:
        """Say what to run."""
        given = [self.root, self.home, self.data, self.config, USER]
        needed = [self.home, sys.base_prefix, sysconfig.get_paths()["purelib"]]
        return ["unshare", "--mount", "sh", "-c", IN_A_ROOT, "sh", *(str(one) for one in (*given, *needed))]

    async def start(self, *, deadline_s: float = 120) -> None:
        """Start it as a process of its own: no other one is its parent."""
        await Server.start(self, deadline_s=deadline_s)

    def launch(self, output: IO[bytes]) -> subprocess.Popen[bytes] | Program:
        """Start the real program."""
        return Server.launch(self, output)


def healthy(port: int) -> bool:
    """Tell what the image's health check says, asked at another port."""
    (words,) = re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    _python, option, code = json.loads(words)
    asked = code.replace(", 8081,", f", {port},")
    return subprocess.run([sys.executable, option, asked], capture_output=True, check=False, timeout=60).returncode == 0


def rights(server: Server) -> tuple[str, int]:
    """Return the user of a process, and the capabilities that it has."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return found["Uid"].split()[0], int(found["CapEff"], 16)


async def test_the_image_works_read_only_and_without_root(image: Path, tmp_path: Path) -> None:
    """What the Dockerfile's steps make serves in a read-only root, by a user without rights, and stops well."""
    service = Contained(tmp_path / "service", image)
    await service.start()
    try:
        async with aiohttp.ClientSession() as session:
            body = delivery("contact.created", "2026-01-15T10:30:00Z", contact={"id": "c-1", "name": "Ana"})
            assert (await post(session, service, body))["position"] == 1
            async with session.get(f"{service.private_url}/metrics") as answer:
                assert "process_start_time_seconds" in await answer.text()  # the rules ask for it, and it needs /proc
        assert healthy(service.private_port)
        assert rights(service) == (USER, 0)
    finally:
        await service.stop()
    assert service.status == 0
    assert not healthy(service.private_port)
    assert [line for line in service.lines() if line["level"] != "info"] == []
    assert {"log.db", "projection.db"} <= {path.name for path in service.data.iterdir()}
