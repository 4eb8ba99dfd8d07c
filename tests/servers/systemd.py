"""A real systemd of the test's own: the first process of a namespace, with the units of `deploy/systemd` alone."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from conftest import missing
from servers.image import NEW_ROOT, PYTHON, mounted
from servers.ports import HOST, free_port
from servers.process import Server
from servers.service import SECRET, SLUG, TENANT
from servers.tools import ROOT, found, ran

UNITS: Final = ROOT / "deploy" / "systemd"
PROGRAM: Final = "/lib/systemd/systemd"
SERVICE: Final = "whatsms-events.service"
SOCKETS: Final = ("whatsms-events-public.socket", "whatsms-events-private.socket")
TARGETS: Final = ("sysinit", "basic", "shutdown", "multi-user", "sockets", "network-online", "time-sync")
"""What the units are ordered by; nothing else of the machine is started."""

# Its root is changed by pivot_root: in a chroot Linux gives nobody a user namespace, which PrivateUsers= wants.
# What it could set for the whole machine it may only read: /proc/sys and /sys; and /dev is its own.

BOOT: Final = f"""
mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/root" "$root/var/lib" "$root/var/log"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 none "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
touch "$LOGS/console" "$root/dev/console"
mount --bind "$LOGS/console" "$root/dev/console"
mount --bind "$LOGS" "$root/var/log"
cp -a "$MADE/etc" "$root/etc"
mkdir "$root/old"
pivot_root "$root" "$root/old"
umount -l /old
rmdir /old
cd /
exec env -i container=other PATH=/usr/bin:/bin:/usr/sbin:/sbin SYSTEMD_UNIT_PATH=/etc/systemd/system \\
    {PROGRAM} --system --unit=multi-user.target --log-target=console --log-level=info
"""


def cgroup() -> Path:
    """Return the control group that we are in, in the hierarchy that systemd needs; skip the test without one."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    at = [fields[1] for fields in mounts if fields[2] == "cgroup2"]
    ours = [
        line[3:] for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines() if line[:3] == "0::"
    ]
    if not at or not ours:
        missing("no cgroup2: systemd cannot be started")
    return Path(at[0]) / ours[0].lstrip("/")


class Systemd(Server):
    """systemd with our service and its sockets enabled, at ports of their own; log lines go into our folder."""

    def __init__(self, folder: Path, home: Path) -> None:
        """Write the units, a configuration and a secret. Skip the test where there is no systemd."""
        super().__init__(folder)
        if not Path(PROGRAM).exists():
            missing("no systemd: it is not installed")
        self.public_port, self.private_port = free_port(), free_port()
        self.home = home
        self.made, self.logs_folder, self.root = (folder / name for name in ("made", "logs", "root"))
        for path in (self.made, self.logs_folder, self.root):
            path.mkdir(parents=True)
        self._cgroup = cgroup() / f"whatsms-events-test-{os.getpid()}-{free_port()}"
        self._make_etc(self.made / "etc")
        ran(found("systemctl"), f"--root={self.made}", "enable", *SOCKETS, SERVICE)

    @property
    def webhook_url(self) -> str:
        """The URL that the vendor would have."""
        return f"http://{HOST}:{self.public_port}/webhooks/{SLUG}"

    @property
    def private_url(self) -> str:
        """The private listener."""
        return f"http://{HOST}:{self.private_port}"

    def _make_etc(self, etc: Path) -> None:
        """Write what systemd, our units and the C library read there."""
        units, secrets = etc / "systemd" / "system", etc / "whatsms-events" / "secrets"
        units.mkdir(parents=True)
        secrets.mkdir(parents=True)
        for name, text in (
            ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n"),
            ("group", "root:x:0:\nnogroup:x:65534:\n"),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            ("hosts", "127.0.0.1 localhost\n"),
            ("machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("os-release", "ID=test\n"),
        ):
            (etc / name).write_text(text, encoding="utf-8")
        shutil.copy("/etc/ld.so.cache", etc / "ld.so.cache")
        for name in TARGETS:
            wants = {"multi-user": "Wants=basic.target\n", "basic": "Wants=sockets.target\nAfter=sockets.target\n"}
            text = f"[Unit]\nDefaultDependencies=no\n{wants.get(name, '')}"
            (units / f"{name}.target").write_text(text, encoding="utf-8")
        for path in UNITS.glob("whatsms-events*"):
            text = path.read_text(encoding="utf-8").replace(":8080", f":{self.public_port}")
            (units / path.name).write_text(text.replace(":8081", f":{self.private_port}"), encoding="utf-8")
        shutil.copy(UNITS / "whatsms.toml", etc / "whatsms-events" / "whatsms.toml")
        self._drop_in(units / f"{SERVICE}.d")
        ran(found("systemd-sysusers"), f"--root={self.made}", str(UNITS / "sysusers.conf"))
        secret = secrets / f"tenants__{SLUG}__webhook_secrets__current"
        secret.write_text(SECRET, encoding="utf-8")
        (line,) = [one for one in (etc / "passwd").read_text(encoding="utf-8").splitlines() if one[:9] == "whatsms-e"]
        for path, mode in ((secret, 0o640), (secrets, 0o750)):
            os.chown(path, 0, int(line.split(":")[3]))
            path.chmod(mode)

    def _drop_in(self, folder: Path) -> None:
        """Say what differs on this machine: ports, the account, where Python is, and who takes the log lines."""
        folder.mkdir()
        environ = {
            "WHATSMS_EVENTS_PUBLIC__PORT": self.public_port,
            "WHATSMS_EVENTS_PRIVATE__PORT": self.private_port,
            f"WHATSMS_EVENTS_TENANTS__{SLUG.upper()}__TENANT_ID": TENANT,
            "WHATSMS_EVENTS_RECEIVER__IDLE_S": 30,  # none is closed for being idle, however slow the machine is
            "LD_LIBRARY_PATH": f"{PYTHON}/lib",
        }
        lines = [f"Environment={name}={value}" for name, value in environ.items()]
        (folder / "test.conf").write_text(
            "\n".join(["[Service]", *lines, "StandardError=append:/var/log/output.log"]) + "\n", encoding="utf-8"
        )

    def command(self) -> Sequence[str]:
        """Say what to run: in a control group of its own, whose namespace is then the whole of what systemd sees."""
        enter = f'echo $$ >"{self._cgroup}/cgroup.procs"; exec "$@"'
        apart = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup", "--kill-child"]
        script = f"{NEW_ROOT}\n{BOOT}"
        environ = ["env", f"LOGS={self.logs_folder}", f"MADE={self.made}"]
        boot = [*environ, *apart, "sh", "-c", script, "sh", str(self.root), *mounted(self.home)]
        return ["sh", "-c", enter, "sh", *boot]

    def logs(self) -> Sequence[Path]:
        """Name what explains a failed start."""
        return [self.folder / "output.log", self.logs_folder / "console", self.logs_folder / "output.log"]

    def lines(self) -> list[dict[str, object]]:
        """Return the log lines of the service."""
        text = (self.logs_folder / "output.log").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    async def serves(self) -> bool:
        """Tell whether the service's door is open."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"{self.private_url}/readyz/receiver") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def start(self, *, deadline_s: float = 120) -> None:
        """Start systemd, and wait for the service."""
        try:
            self._cgroup.mkdir()
        except OSError as exc:
            missing(f"no right to a control group of our own, so systemd cannot be started: {exc.strerror}")
        await super().start(deadline_s=deadline_s)

    async def stop(self) -> None:
        """Kill all of it: what ends with its first process needs no farewell. And leave no control group behind."""
        await self.kill()
        until = time.monotonic() + 30
        while self._cgroup.exists() and time.monotonic() < until:
            for path in sorted(self._cgroup.rglob("*"), reverse=True):
                if path.is_dir():
                    with contextlib.suppress(OSError):  # a process in it is not quite dead yet
                        path.rmdir()
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()

    @property
    def first(self) -> int:
        """The process id of systemd, as we see it."""
        (pid,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8").split()
        return int(pid)

    def systemctl(self, *words: str) -> str:
        """Ask this systemd."""
        return ran(
            "nsenter", "--target", str(self.first), "--mount", "--pid", "--cgroup", "--root", "systemctl", *words
        )

    def shown(self, *names: str) -> Mapping[str, str]:
        """Return properties of the service."""
        text = self.systemctl("show", SERVICE, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in text.splitlines())

    def inside(self, path: str) -> Path:
        """Return where a file of its root is for us."""
        return Path(f"/proc/{self.first}/root{path}")
