"""The wheel that users install: all of the package is in it, its types and migrations too."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import whatsms_events

pytestmark = pytest.mark.process

PACKAGE = Path(whatsms_events.__file__).parent


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    """Every file of the source, `py.typed` among them, which lets a user's type checker read our types."""
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    subprocess.run([sys.executable, *words, str(PACKAGE.parent.parent)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "whatsms_events/py.typed" in source
    assert packed == source
