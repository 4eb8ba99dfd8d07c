"""What the Dockerfile's steps make: in a read-only root without rights, and under a real systemd with our unit."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import aiohttp
import pytest

from servers.compare import LONG, until
from servers.image import DOCKERFILE, HOME, NEW_ROOT, PYTHON, USER, built, may_have_a_root, mounted
from servers.process import Server, run_apart
from servers.service import SECRET, Service
from servers.steady import Steady
from servers.systemd import SERVICE, SOCKETS, Systemd
from servers.tools import found
from servers.warm import Program
from test_journey import delivery, post
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

DATA: Final = "/var/lib/whatsms-events"

SERVE: Final = f"""
cp -r /etc/passwd /etc/group "$root/etc/"
mkdir -p "$root{DATA}" "$root/config"
mount --bind "$DATA" "$root{DATA}"
cp "$CONFIG" "$root/config/whatsms.toml"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid {USER} --regid {USER} --clear-groups --bounding-set=-all --inh-caps=-all \\
    --no-new-privs env -i PATH={HOME}/bin:/usr/bin LD_LIBRARY_PATH={PYTHON}/lib PYTHONDONTWRITEBYTECODE=1 \\
    WHATSMS_EVENTS_CONFIG=/config/whatsms.toml WHATSMS_EVENTS_DATA_DIR={DATA} \\
    whatsms-events serve --roles receiver,consumer
"""
"""Only the folder of the data can be written to; there is no capability, no root, and no /tmp."""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """Give the virtual environment that the steps of the Dockerfile make."""
    may_have_a_root()
    found("setpriv")
    with built() as home:
        yield home


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
        given = ["env", f"DATA={self.data}", f"CONFIG={self.config}"]
        folders = ["/dev:/dev", "/proc:/proc", *mounted(self.home)]
        script = f'{NEW_ROOT}\nmkdir "$root/etc"\n{SERVE}'
        return [*given, "unshare", "--mount", "sh", "-c", script, "sh", str(self.root), *folders]

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


def status_of(file: Path) -> dict[str, str]:
    """Return what Linux says of a process."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


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
        status = status_of(Path(f"/proc/{service.pid}/status"))
        assert (status["Uid"].split()[0], int(status["CapEff"], 16)) == (USER, 0)
    finally:
        await service.stop()
    assert service.status == 0
    assert not healthy(service.private_port)
    assert [line for line in service.lines() if line["level"] != "info"] == []
    assert {"log.db", "projection.db"} <= {path.name for path in service.data.iterdir()}


@pytest.fixture(scope="module")
def systemd(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    """Give a systemd that runs our service and holds its sockets, for the two tests below, one after the other."""
    server = Systemd(tmp_path_factory.mktemp("systemd") / "systemd", image)
    try:
        run_apart(server.start())
        yield server
    finally:
        run_apart(server.stop())


async def told(server: Systemd, name: str) -> int:
    """Deliver a contact, and return its position."""
    body = delivery("contact.created", "2026-01-15T10:30:00Z", contact={"id": name, "name": "Ana"})
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.webhook_url, data=body, headers={HEADER: sign(body, SECRET.encode())}) as answer,
    ):
        assert answer.status == 200
        return int((await answer.json())["position"])


async def test_a_restart_by_systemd_loses_no_delivery(systemd: Systemd) -> None:
    """While systemd holds the sockets a restart is a delay: no connection is refused, each delivery gets a 2xx."""
    load = Steady(systemd.public_port, SECRET)
    async with load.sending():
        for _ in range(5 if LONG else 1):
            for kind in ("kept", "fresh"):
                await more(load, kind)
            pid = systemd.shown("MainPID")
            await asyncio.to_thread(systemd.systemctl, "restart", SERVICE)
            assert systemd.shown("MainPID") != pid
        for kind in ("kept", "fresh"):
            await more(load, kind)
    assert load.failures == []
    assert "service.stopped" in [one["event"] for one in systemd.lines()]


async def more(load: Steady, kind: str) -> None:
    """Wait until some more deliveries of a kind are accepted."""
    wanted = load.by_kind[kind] + 20
    await until(lambda: load.by_kind[kind] >= wanted or bool(load.failures), 120, f"deliveries, {kind}")


async def test_the_unit_runs_the_service_as_it_should(systemd: Systemd) -> None:
    """It serves under all that the unit forbids, comes back when killed, stops well, and stays down when wrong."""
    position = await told(systemd, "c-1")
    pid = int(systemd.shown("MainPID")["MainPID"])
    status = status_of(systemd.inside(f"/proc/{pid}/status"))
    assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapBnd"], 16)) == ("2", "1", 0)
    assert "0" not in status["Uid"].split()
    systemd.systemctl("kill", "--signal=SIGKILL", SERVICE)

    async def back() -> bool:
        return await systemd.serves() and int(systemd.shown("NRestarts")["NRestarts"]) == 1

    await until(back, 120, "it is started again")
    assert await told(systemd, "c-1") == position
    assert await told(systemd, "c-2") > position
    systemd.systemctl("stop", *SOCKETS, SERVICE)
    assert systemd.shown("Result", "ExecMainStatus", "ActiveState") == {
        "Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive",
    }  # fmt: skip
    assert systemd.lines()[-1]["event"] == "service.stopped"
    config = systemd.inside("/etc/whatsms-events/whatsms.toml")
    config.write_text(config.read_text() + "\n[recever]\n")
    systemd.systemctl("start", "--no-block", SERVICE)
    await until(lambda: systemd.shown("ActiveState")["ActiveState"] == "failed", 120, "it gives up")
    assert systemd.shown("ExecMainStatus", "NRestarts") == {"ExecMainStatus": "2", "NRestarts": "0"}
