"""What was measured: findings, as a table in Markdown and as JSON."""

import json
import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LIBRARIES: Final = ("aiohttp", "aiokafka", "aiosqlite", "asyncpg", "msgspec", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure must reach, and what it should. `below`: smaller is better, as for times."""

    must: float
    aim: float
    below: bool = False

    def judge(self, value: float) -> str:
        """Say in a word how the value stands."""
        for word, bar in (("aim", self.aim), ("must", self.must)):
            if value <= bar if self.below else value >= bar:
                return word
        return "missed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table: a figure of each round, mostly the ratio to a reference that was measured beside it."""

    row: str
    case: str
    reference: str
    values: Sequence[float]
    unit: str = "times"
    bar: Bar | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    def line(self) -> str:
        """Return the line of the table in Markdown."""
        spread = f"{_short(min(self.values))} to {_short(max(self.values))}"
        bars = ("", "", "") if self.bar is None else (self.bar.must, self.bar.aim, self.bar.judge(self.value))
        value = f"**{_short(self.value)}** {self.unit}"
        cells = (self.row, self.case, value, spread, self.reference, *bars, self._told())
        return f"| {' | '.join(map(str, cells))} |"

    def _told(self) -> str:
        return ", ".join(
            f"{name} {_short(value) if isinstance(value, float) else value}" for name, value in self.details.items()
        )


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratios(ours: Sequence[float], references: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(ours, references, strict=True)]


def write(findings: Sequence[Finding], skipped: Sequence[str], folder: Path, name: str, how: dict[str, object]) -> str:
    """Write `name`.md and `name`.json into the folder; return the text of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine() | how
    lines = [
        f"# {name}",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "",
        "| row | case | median | rounds | reference | must | aim | reached | figures (medians) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(finding.line() for finding in findings),
        "",
        *(f"- not measured: {reason}" for reason in skipped),
    ]
    text = "\n".join(lines).rstrip() + "\n"
    (folder / f"{name}.md").write_text(text)
    found = [asdict(finding) | {"value": finding.value} for finding in findings]
    content = {"about": about, "findings": found, "skipped": list(skipped)}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return text


def machine() -> dict[str, object]:
    """Say on what, with what and of which commit this was measured."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": _commit(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, of which {len(os.sched_getaffinity(0))} may be used",
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {libraries}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Return the commit, with a mark where files differ from it; "unknown" outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
