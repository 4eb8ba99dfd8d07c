"""The layers of the house, its sizes, names and waits, held to the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import whatsms_events

ROOT = Path(whatsms_events.__file__).parent
TESTS = Path(__file__).parent

BELOW = {
    "errors": set(),
    "clock": set(),
    "metrics": set(),
    "redaction": {"errors"},
    "lines": set(),
    "logs": {"redaction", "errors"},
    "domain": {"errors"},
    "consume": {"domain", "errors"},
    "kafka": {"domain", "errors", "metrics"},
    "storage": {"domain", "errors", "metrics"},
    "whatsms": {"domain", "errors", "metrics"},
    "web": {"storage", "domain", "errors", "metrics", "redaction"},
    "workers": {"storage", "kafka", "whatsms", "domain", "errors", "metrics"},
    "backfill": {"workers", "storage", "whatsms", "domain", "errors", "metrics"},
    "twin": {"domain", "errors"},
    "contracts": {"web", "backfill", "twin", "storage", "whatsms", "domain"},
    "config": {"domain", "errors", "storage"},
    "service": {
        "config",
        "contracts",
        "web",
        "workers",
        "backfill",
        "kafka",
        "storage",
        "whatsms",
        "domain",
        "errors",
        "metrics",
    },
    "cli": {"service", "config", "web", "workers", "backfill", "twin", "kafka", "storage", "whatsms", "domain"}
    | {"errors", "metrics", "logs", "consume"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each package, or module at top level, may import beside itself: imports go down only."""

TIME = {("clock", room) for room in BELOW.keys() - {"domain"}}
"""Our clock is for everyone but the domain, which is given `now`."""

LOOP = "whatsms_events.workers.loop"
"""All that `backfill` may import of `workers`."""

OWNERS = {
    "sqlalchemy": {"storage"},
    "aiosqlite": {"storage"},
    "asyncpg": {"storage"},
    "alembic": {"storage"},
    "sqlite3": {"storage"},
    "aiokafka": {"kafka"},
    "prometheus_client": {"metrics", "web/health.py"},
    "aiohttp": {"web", "whatsms", "twin"},
    "pydantic": {"config"},
    "pydantic_settings": {"config"},
    "cyclopts": {"cli"},
    "stamina": {"whatsms"},
    "aiolimiter": {"whatsms"},
}
"""Who may import a library: a package or a file."""

IMPURE = {"asyncio", "socket", "time", "random", "structlog", "logging", "os", "threading", "subprocess"}


@cache
def trees() -> list[tuple[str, ast.Module, str]]:
    """Return each module's path, tree and text, read once.

    They are read by the first test that asks, for every process of the suite imports this file. Migrations are not in:
    each is one long list of tables, read once from top to bottom, and never changed.
    """
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if "migrations" not in path.parts:
            text = path.read_text(encoding="utf-8")
            found.append((path.relative_to(ROOT).as_posix(), ast.parse(text), text))
    return found


@cache
def modules() -> list[tuple[Path, set[str]]]:
    """Return each module of the package and every name it imports.

    The tests below ask all modules at once: thousands of tests of a millisecond each cost the suite seconds.
    """
    found = []
    for path, tree, _text in trees():
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names.add(node.module or "")
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
        found.append((Path(path), names))
    return found


def room(path: Path) -> str:
    """Return the package, or the module at top level."""
    return path.parts[0] if len(path.parts) > 1 else path.stem


def test_imports_go_down_only() -> None:
    """No module imports from a layer above or beside its own, and only `service` and `cli` wire."""
    for path, names in modules():
        here = room(path)
        for name in names:
            parts = name.split(".")
            if parts[0] != "whatsms_events" or len(parts) < 2 or parts[1] == "__version__":
                continue
            there = room(Path(f"{parts[1]}.py"))
            assert there == here or there in BELOW[here] or (there, here) in TIME, f"{path} imports {name}"
            if (here, there) == ("backfill", "workers") and len(parts) > 2:
                assert name.startswith(LOOP), f"{path} imports {name}"


def test_every_package_has_its_place() -> None:
    """The table above has each package and module at top level, and no other."""
    assert {room(path) for path, _names in modules()} == set(BELOW)


@cache
def _defined(module: str) -> set[str]:
    """List what a module of ours defines at its top, or has as a module below it."""
    path = ROOT.joinpath(*module.split(".")[1:])
    found = {below.stem for below in path.glob("*.py")} | {below.name for below in path.glob("*") if below.is_dir()}
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


def test_a_thing_has_one_import_path() -> None:
    """A name is imported from the module that defines it: no module passes on another one's names."""
    for path, tree, _text in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whatsms_events"):
                names = {alias.name for alias in node.names}
                assert names <= _defined(node.module or ""), f"{path}: {names - _defined(node.module or '')}"
        assert not any(isinstance(node, ast.Name) and node.id == "__all__" for node in ast.walk(tree)), path


def test_a_library_has_one_owner() -> None:
    """A library is imported only where its exceptions are translated."""
    for path, names in modules():
        for name in names:
            owners = OWNERS.get(name.split(".")[0])
            if owners is not None:
                assert room(path) in owners or path.as_posix() in owners, f"{path} imports {name}"
            if room(path) == "domain":
                assert name.split(".")[0] not in IMPURE, f"{path} imports {name}: domain is pure"


def test_domain_awaits_nothing() -> None:
    """The domain has no coroutine and reads no clock."""
    for path in (ROOT / "domain").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"now", "utcnow", "today"}, f"{path.name}:{node.lineno} reads a clock"


MODULE_LIMIT, FUNCTION_LIMIT = 450, 40

FORBIDDEN = {"manager", "handler", "helper", "util", "utils", "common", "base", "abstract", "impl", "process"}
"""Words that say nothing about what a thing is; `handlers` and the like are meant too."""

IMPOSED = {
    ("web/api.py", "Handler"): "aiohttp's word for what answers a request; it is the type of one",
    ("web/app.py", "Handler"): "aiohttp's word for what answers a request; it is the type of one",
}
"""Names with such a word that somebody else chose, with the reason."""

SLEEPS = {
    "storage/log/committer.py": "the backoff before it connects again: it has no loop above it, it is one",
    "storage/database.py": "a file lock with a deadline: flock either waits for ever or not at all",
    "storage/projection/apply.py": "one turn of the loop in a long batch, for a receiver beside it",
    "storage/projection/rows.py": "the same",
    "web/access.py": "the answer to a wrong token: to be late is what it is for",
    "web/app.py": "a server that stops: no connection tells when it has been idle for long enough",
    "cli/tail.py": "the backoff before it asks again: it has no loop above it, it is one",
    "web/feed.py": "readers that are behind rest after each page, for a receiver beside them",
    "web/tail.py": "one turn of the loop after some readers, for a receiver beside them",
    "kafka/visible.py": "no broker tells when a marker is written: the one place that polls for it",
    "kafka/connection.py": "one turn of the loop, for aiokafka's tasks to end",
    "kafka/topics.py": "no broker tells when a topic that was made is there",
    "workers/relay.py": "others have a turn while many rows are sorted into batches",
}
"""Where anything but workers/loop.py sleeps, with the reason. The loop itself waits for a bell."""


TWO_WORLDS = {
    "Ticket": "what a webhook tells, and the vendor's own that the twin changes",
    "Message": "the same",
    "Contact": "the same",
    "Campaign": "the same",
    "Handler": "aiohttp's word, wherever something answers a request",
    "Place": "of the REST client, which is used alone",
}
"""Names of types that two modules define, with the reason."""


def test_a_name_means_one_thing() -> None:
    """No two modules define a class or a type of one name."""
    defined: dict[str, list[str]] = {}
    for path, tree, _text in trees():
        for node in tree.body:
            match node:
                case (
                    ast.ClassDef(name=name)
                    | ast.Assign(targets=[ast.Name(id=name)])
                    | ast.AnnAssign(target=ast.Name(id=name))
                ) if re.match(r"[A-Z]+[a-z]", name):
                    defined.setdefault(name, []).append(path)
    assert {name: places for name, places in defined.items() if len(places) > 1 and name not in TWO_WORLDS} == {}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """List every function, also methods and those within others."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def words(name: str) -> set[str]:
    """Return the words of a name in snake_case or CamelCase, in lower case and singular."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {word.lower() for word in found} | {word.lower().removesuffix("s") for word in found}


def test_words_of_a_name_are_found() -> None:
    """The check below sees its words in every spelling, and does not see them within other words."""
    assert words("HTTPHandlerUtils") >= {"http", "handler", "util"}
    assert words("_base_impl") >= {"base", "impl"}
    assert not words("Database") & FORBIDDEN


def test_modules_and_functions_are_short() -> None:
    """A module has 450 lines at most, a function 40."""
    for path, tree, text in trees():
        assert len(text.splitlines()) <= MODULE_LIMIT, path
        for function in functions(tree):
            lines = (function.end_lineno or 0) - function.lineno + 1
            assert lines <= FUNCTION_LIMIT, f"{path}: {function.name} has {lines} lines"


def test_names_say_what_a_thing_is() -> None:
    """No module, class, function or type is called a manager, helper, base or the like but where a library says so."""
    for path, tree, _text in trees():
        assert not words(path.removesuffix(".py").replace("/", "_")) & FORBIDDEN
        defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        defined += [function.name for function in functions(tree)]
        for node in tree.body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            defined += [target.id for target in targets if isinstance(target, ast.Name)]
        found = {(path, name) for name in defined if words(name) & FORBIDDEN}
        assert found == {place for place in IMPOSED if place[0] == path}


@cache
def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """List every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nobody_sleeps_but_where_it_says_why() -> None:
    """Waiting is for the loop and its bell: whoever sleeps elsewhere, and nobody else, is in the list above."""
    sleeping = {path for path, tree, _ in trees() for name, _ in calls(tree) if name.split(".")[-1] == "sleep"}
    assert sleeping - {"workers/loop.py"} == set(SLEEPS)


def test_tasks_live_in_groups() -> None:
    """A task is made by a TaskGroup opened in the same function, so that none outlives what started it; nothing starts
    a task in another way.
    """
    for path, tree, _text in trees():
        forbidden = {"ensure_future", "gather", "run_coroutine_threadsafe"}
        for name, call in calls(tree):
            assert name.split(".")[-1] not in forbidden, f"{path}:{call.lineno} {name}"
        made = [call.lineno for name, call in calls(tree) if name.split(".")[-1] == "create_task"]
        grouped = [line for function in functions(tree) for line in _grouped(function)]
        assert sorted(made) == sorted(grouped), f"{path}: {set(made) - set(grouped)}"


def _grouped(function: ast.AST) -> Iterator[int]:
    """List the lines that make a task of a group in whose `async with` they are."""
    for node in ast.walk(function):
        if not isinstance(node, ast.AsyncWith):
            continue
        groups = {
            ast.unparse(item.optional_vars)
            for item in node.items
            if item.optional_vars is not None and ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
        }
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and ast.unparse(inner.func) in {f"{name}.create_task" for name in groups}:
                yield inner.lineno


def test_no_test_sets_a_constant() -> None:
    """What a test must change is an argument: a constant that is set anew is one that nobody else can set."""
    found = [
        f"{path.relative_to(TESTS)}:{number}"
        for path in sorted(TESTS.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"""setattr\([^"']*["']([\w.]+\.)?[A-Z][A-Z0-9_]+["'],""", line)
    ]
    assert found == []
