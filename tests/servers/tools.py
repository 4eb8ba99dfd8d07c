"""Programs of others that only look at files: linters, parsers, renderers."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from conftest import missing

ROOT: Final = Path(__file__).resolve().parents[2]


def ran(*words: str, cwd: Path = ROOT, environ: Mapping[str, str] | None = None, timeout_s: float = 300) -> str:
    """Run a tool, assert that it is content, and return what it printed."""
    given = os.environ | dict(environ or {})
    done = subprocess.run(words, cwd=cwd, env=given, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def found(name: str) -> str:
    """Return where a program of the machine is; skip the test without it."""
    where = shutil.which(name)
    if where is None:
        missing(f"no {name}: it is not installed")
    return where
