"""Draw the demo's terminal as SVG: docs/demo.svg while webhooks arrive, docs/proof.svg at its end. `make picture`.

The demo runs as a person runs it, in a terminal of its own. Nothing in the pictures is made up: the first one is the
last frame that the live view drew before the repair, the second one is the summary that is left on the screen.
"""

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

DOCS: Final = Path(__file__).resolve().parent
COLUMNS: Final = 104
LINES: Final = 30
TIMEOUT_S: Final = 300.0

ERASED: Final = re.compile(r"\r?(?:\x1b\[2K)?(?:\x1b\[1A\x1b\[2K)+")
"""How rich's live view takes back a frame: it goes up line by line and clears each."""
CURSOR: Final = re.compile(r"\x1b\[\?25[lh]")
RUNNING: Final = "accepted per second"
"""A row that the live view has only until the repair begins."""

THEME: Final = TerminalTheme(
    (16, 20, 28),
    (222, 226, 232),
    [
        *((16, 20, 28), (240, 113, 120), (145, 208, 118), (245, 201, 104)),
        *((110, 178, 255), (198, 160, 246), (94, 206, 206), (222, 226, 232)),
    ],
    [
        *((128, 138, 155), (255, 140, 145), (168, 224, 144), (255, 216, 130)),
        *((140, 196, 255), (214, 182, 255), (130, 224, 224), (255, 255, 255)),
    ],
)
SVG: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own frame without its fonts, which a reader's browser would fetch from elsewhere."""


class Screens(NamedTuple):
    """What stood on the screen: while webhooks arrived, and at the end."""

    running: str
    end: str


def recorded(seconds: float, folder: Path) -> str:
    """Run the demo for so many seconds in a terminal of its own, and return all that it wrote there."""
    above, below = pty.openpty()
    fcntl.ioctl(below, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    ours = ("NO_COLOR", "COLUMNS", "LINES")
    environ = {name: value for name, value in os.environ.items() if name not in ours} | {"TERM": "xterm-256color"}
    command = [
        sys.executable,
        "-m",
        "whatsms_events",
        "demo",
        f"--seconds={seconds}",
        f"--set=data_dir={folder / 'var'}",
    ]
    with subprocess.Popen(command, stdin=below, stdout=below, stderr=below, env=environ) as demo:  # noqa: S603
        os.close(below)
        written = io.BytesIO()
        try:
            while piece := os.read(above, 65536):
                written.write(piece)
        except OSError:  # Linux says so where the other end of a terminal is closed
            pass
        finally:
            os.close(above)
        if status := demo.wait(TIMEOUT_S):
            raise SystemExit(f"the demo ended with status {status}")
    return written.getvalue().decode().replace(str(folder) + "/", "").replace("\r\n", "\n")


def screens(written: str) -> Screens:
    """Return both screens from what the demo wrote: frames of the live view are told apart by how they are erased."""
    frames = ERASED.split(written)
    introduction = CURSOR.split(frames[0])[0]
    (*_, running) = [frame for frame in frames if RUNNING in frame]
    table = CURSOR.split(running)[-1]
    return Screens(f"{introduction.rstrip()}\n\n{table}", frames[-1])


def draw(text: str, path: Path, title: str) -> None:
    """Write a screen as SVG."""
    width = max(len(line) for line in Text.from_ansi(text).plain.splitlines())
    console = Console(record=True, file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(text.strip("\n")), soft_wrap=True)
    console.save_svg(str(path), title=title, theme=THEME, code_format=SVG, unique_id=path.stem)


def main() -> None:
    """Run the demo and write both pictures."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("--seconds", type=float, default=20.0, help="how long webhooks arrive")
    asked.add_argument("--into", type=Path, default=DOCS, help="the folder of the pictures")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shown = screens(recorded(given.seconds, Path(folder).resolve()))
    draw(shown.running, given.into / "demo.svg", "make run")
    draw(shown.end, given.into / "proof.svg", "make run, at its end")


if __name__ == "__main__":
    main()
