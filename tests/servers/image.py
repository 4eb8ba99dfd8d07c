"""What the Dockerfile makes, without Docker: its steps run in a folder, and a root of its own to run the result in."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from conftest import missing
from servers.compare import LONG
from servers.tools import ROOT, found, ran

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HOME: Final = "/opt/whatsms-events"
PYTHON: Final = "/opt/python"
LOCKED: Final = "/opt/locked"
(USER,) = re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)

NEW_ROOT: Final = """
set -eu
root=$1; shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$root"
for pair in /usr:/usr /bin:/bin /sbin:/sbin /lib:/lib /lib64:/lib64 "$@"; do
    from=${pair%%:*}; to=${pair##*:}
    if [ -L "$from" ]; then cp -P "$from" "$root$to"; continue; fi
    [ -d "$from" ] || continue
    mkdir -p "$root$to"
    mount --rbind "$from" "$root$to"
    mount -o remount,bind,ro "$root$to"
done
"""
"""The beginning of a script: a root in memory, with folders of this machine in it that cannot be written to."""


def mounted(home: Path) -> list[str]:
    """Return what `NEW_ROOT` takes for the program to run: it, its Python, and the packages of the tests."""
    return [f"{home}:{HOME}", f"{sys.base_prefix}:{PYTHON}", f"{sysconfig.get_paths()['purelib']}:{LOCKED}"]


def may_have_a_root() -> None:
    """Skip the test where this machine, or who we are, lets nobody have a root of their own."""
    tried = subprocess.run([found("unshare"), "--mount", "true"], capture_output=True, check=False, timeout=60)
    if tried.returncode != 0:
        missing("no right to unshare: what the Dockerfile makes was not run in a root of its own")


def steps() -> list[str]:
    """Return the commands of the stage that builds, each RUN taken apart."""
    stage = DOCKERFILE.partition("AS build")[2].partition("\nFROM ")[0].replace("\\\n", " ")
    return [command for run in re.findall(r"^RUN (.*)$", stage, re.MULTILINE) for command in run.split("&&")]


@contextmanager
def built() -> Iterator[Path]:
    """Run the steps of the Dockerfile, and give the virtual environment that they make; it works at HOME only.

    In the short form the locked packages are not installed again: they are those of the tests' own environment.
    """
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
        _move(home, Path(python))
        yield home
    finally:
        shutil.rmtree(top)


def _move(home: Path, python: Path) -> None:
    """Make a virtual environment work at HOME, with its Python at PYTHON: it names both where it was made."""
    command, settings = home / "bin" / "whatsms-events", home / "pyvenv.cfg"
    for file, here, there in ((command, str(home), HOME), (settings, sys.base_prefix, PYTHON)):
        text = file.read_text(encoding="utf-8")
        assert here in text, file
        file.write_text(text.replace(here, there), encoding="utf-8")
    for locked in home.glob("lib/python*/site-packages/locked.pth"):
        locked.write_text(LOCKED, encoding="utf-8")
    for link in (home / "bin").glob("python*"):
        link.unlink()
        link.symlink_to(f"{PYTHON}/bin/{python.name}")
