"""Measure the shape of the package, before (a revision) and after (the tree): how many and how long its files are.

    python docs/shape.py 4a0ce42

prints the tables of docs/contributing.md, "Before and after".
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = "src/whatsms_events"
LONGEST: Final = 8
FIELD: Final = re.compile("ai_agent_id|aiAgentId")
"""A plain field of a ticket: where it is named, a new one has to be named too."""
TABLES: Final = ("storage/repair/", "storage/checkpoints.py", "storage/looks.py", "storage/reports.py")
"""The modules of the backfill's tables, now and before."""

Modules = Mapping[str, str]
"""The text of each module, by its path within the package."""


def before(revision: str) -> Modules:
    """Return the package's modules as a revision has them."""
    told = subprocess.run(  # noqa: S603
        ["git", "archive", revision, SOURCE],  # noqa: S607
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as archive:
        found = {one.name: archive.extractfile(one) for one in archive if one.name.endswith(".py")}
        return {name.removeprefix(f"{SOURCE}/"): file.read().decode() for name, file in found.items() if file}


def after() -> Modules:
    """Return the package's modules as they stand in the tree."""
    source = ROOT / SOURCE
    return {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.py")}


def package(path: str) -> str:
    """Return the package of a module, as deep as it goes; migrations belong to none."""
    return path.rpartition("/")[0] or "(top)"


def counted(modules: Modules) -> Counter[str]:
    """Return how many modules each package has, without its `__init__` where that has only a docstring."""
    return Counter(
        package(path)
        for path, text in modules.items()
        if "migrations" not in path and len(ast.parse(text).body) > (1 if path.endswith("__init__.py") else 0)
    )


def long_modules(modules: Modules) -> list[tuple[int, str]]:
    """Return the longest modules, with their lines."""
    return sorted(((len(text.splitlines()), path) for path, text in modules.items()), reverse=True)[:LONGEST]


def functions(modules: Modules) -> Iterator[tuple[int, str]]:
    """Yield each function with its lines; migrations are lists of tables, and left out."""
    for path, text in modules.items():
        if "migrations" in path:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path}: {node.name}"


def longest_functions(modules: Modules) -> list[tuple[int, str]]:
    """Return the longest functions, with their lines."""
    return sorted(functions(modules), reverse=True)[:LONGEST]


def naming(modules: Modules, *, in_twin: bool) -> int:
    """Return how many modules name one plain field of a ticket: those of twin and demo, or the others."""
    rooms = [path for path, text in modules.items() if FIELD.search(text) and "migrations" not in path]
    return sum(path.startswith(("twin/", "cli/")) == in_twin for path in rooms)


def crossed(modules: Modules) -> int:
    """Return how many modules of the backfill, of its tables and of the domain a run leads through, by imports."""
    (start,) = {"backfill/worker.py", "workers/backfill.py"} & modules.keys()
    found, left = set[str](), [start]
    while left:
        path = left.pop()
        if path in found or not ("backfill" in path or path.startswith(("domain/", *TABLES))):
            continue
        found.add(path)
        for node in ast.walk(ast.parse(modules[path])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whatsms_events."):
                names = [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
                places = ["/".join(name.split(".")[1:]) + ".py" for name in names]
                left += [place for place in places if place in modules]
    return len(found)


def tables(old: Modules, new: Modules) -> Iterator[str]:
    """Yield the lines of the tables."""
    yield from ["| package | modules before | after |", "| --- | --- | --- |"]
    counts = counted(old), counted(new)
    for name in sorted(counts[0].keys() | counts[1].keys()):
        yield f"| `{name}` | {counts[0][name]} | {counts[1][name]} |"
    yield f"| all | {counts[0].total()} | {counts[1].total()} |"
    yield f"| lines in all | {_lines(old)} | {_lines(new)} |"
    for title, measured in (("longest modules", long_modules), ("longest functions", longest_functions)):
        yield from ["", f"| {title} before | lines | after | lines |", "| --- | --- | --- | --- |"]
        for was, now in zip(measured(old), measured(new), strict=True):
            yield f"| `{was[1]}` | {was[0]} | `{now[1]}` | {now[0]} |"
    yield from ["", "| what one change, or one run, touches | before | after |", "| --- | --- | --- |"]
    service, twin = [[naming(modules, in_twin=in_twin) for modules in (old, new)] for in_twin in (False, True)]
    yield f"| modules of the service that name `ai_agent_id`, a plain field of tickets | {service[0]} | {service[1]} |"
    yield f"| modules of twin and command line that name it | {twin[0]} | {twin[1]} |"
    yield f"| modules of backfill, its tables and domain that one run leads through | {crossed(old)} | {crossed(new)} |"


def _lines(modules: Modules) -> int:
    return sum(len(text.splitlines()) for text in modules.values())


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables(before(sys.argv[1]), after())) + "\n")
