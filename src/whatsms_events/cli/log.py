"""`log verify` and `log copy`: prove that the log is what was received, and move it to another database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.progress import Steps
from whatsms_events.cli.running import run
from whatsms_events.clock import now, within
from whatsms_events.config.checks import url_problem
from whatsms_events.config.settings import Settings
from whatsms_events.domain.seals import SAYS, Flaw
from whatsms_events.errors import ConfigError, IntegrityError, TransientError
from whatsms_events.service.stores import log_target, opened_log
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, place_of, upgrade
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.copying import Copied, LogCopy
from whatsms_events.storage.log.verify import CheckedLog, verify
from whatsms_events.storage.role_lock import RoleLock

Behind = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
Through = Annotated[int | None, Parameter(validator=Number(gte=1, lt=2**63))]

_HEAD_MISSING: Final = (
    "wrong: no seal that was checked has the hash that --head names, so the seals were made anew, or --through ends "
    "before that seal"
)

PIECES: Final = 100
PIECE_S: Final = 0.1
"""A piece of retention takes a fraction of a second, and it rests longer than it works."""

WORKING: Final = ("relay", "consumer", "sealer")
"""Roles that show whether a service still works on a log: each holds its lock while it does."""


def verify_(
    *,
    after: Behind = 0,
    through: Through = None,
    head: str | None = None,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Check the log from its bytes up (bytes, stored hash, seal, chain), and name the first position that is bad.

    Status 0: nothing is wrong. Status 1: something is, and the rest was not looked at. It may run beside the service,
    and what it holds in memory does not grow with the log.

    Parameters
    ----------
    after
        Begin behind this position, as after an earlier check that ended there. A log that ends before it is not right.
    through
        End at this position. Without it: at the end of the log.
    head
        A `head` that an earlier check printed. The chain that is checked must have it: whoever changes rows and makes
        all seals anew cannot make that one again. With --after the check begins at that seal where it is further back.
    json
        Print JSON.
    """
    if through is not None and through <= after:
        raise ConfigError("--through: should be larger than --after")
    settings, digest, steps = options.load(), _digest(head), Steps("log verify")

    async def checked() -> CheckedLog:
        async with opened_log(settings, even_moved=True) as log:
            return await verify(log, after=after, through=through, head=digest, on_progress=partial(_say, steps))

    seen = run(checked())
    has_head = digest is None or seen.head_found
    print(msgspec.json.encode(_plain(seen, has_head=has_head)).decode() if json else _text(seen, has_head=has_head))
    return 0 if seen.flaw is None and has_head else 1


def _say(steps: Steps, seen: CheckedLog) -> None:
    steps.at(seen.through, seen.end)


def _digest(head: str | None) -> bytes | None:
    if head is None:
        return None
    try:
        return bytes.fromhex(head)
    except ValueError as exc:
        raise ConfigError("--head: write it as `log verify` prints it") from exc


def _text(seen: CheckedLog, *, has_head: bool) -> str:
    lines = [f"log {seen.log_id}"]
    if seen.flaw is None and seen.through <= seen.after:
        lines.append(f"there is nothing behind position {seen.after}")
    rows = f"{seen.rows} rows, {seen.blanked} of them blanked" if seen.blanked else f"{seen.rows} rows"
    if seen.through > seen.after:
        lines.append(f"right: positions {seen.after + 1} to {seen.through} ({rows}, {seen.seals} seals)")
    if seen.flaw is not None:
        lines.append(f"wrong at position {seen.flaw.position} ({seen.flaw.fault}): {_detail(seen, seen.flaw)}")
    elif (open_rows := seen.through - max(seen.sealed_through, seen.after)) > 0:
        lines.append(f"not sealed yet: the last {open_rows} positions, checked by their stored hashes alone")
    if not has_head:
        lines.append(_HEAD_MISSING if seen.flaw is None else "the head that --head names was not reached")
    if seen.head is not None:
        lines.append(f"head {seen.head.hex()} (keep it elsewhere, and give it to a later check with --head)")
    return "\n".join(lines)


def _detail(seen: CheckedLog, flaw: Flaw) -> str:
    if seen.end < seen.after:
        return (
            f"the log ends at position {seen.end}, before the one that --after names: rows are missing at its end, or "
            "--after is too large"
        )
    return SAYS[flaw.fault]


def _plain(seen: CheckedLog, *, has_head: bool) -> dict[str, Any]:
    flaw = seen.flaw
    wrong = None
    if flaw is not None:
        wrong = {"position": flaw.position, "fault": flaw.fault, "detail": _detail(seen, flaw)}
    return {
        "right": flaw is None and has_head,
        "log_id": seen.log_id,
        "after": seen.after,
        "through": seen.through,
        "end": seen.end,
        "rows": seen.rows,
        "blanked": seen.blanked,
        "seals": seen.seals,
        "sealed_through": seen.sealed_through,
        "head": None if seen.head is None else seen.head.hex(),
        "head_found": has_head,
        "wrong": wrong,
    }


def copy_(
    *,
    to: str,
    finish: bool = False,
    take_back: bool = False,
    password_file: Path | None = None,
    tls: bool = False,
    tls_ca_file: Path | None = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Copy the log to another database, row by row with the same positions and ids, and with --finish move it there.

    Without --finish the service may run. Whatever stops the command, run it again: it goes on where the target ends.

    Parameters
    ----------
    to
        Where to: postgresql://user@host:5432/name, or sqlite:////absolute/path/log.db. It must be empty.
    finish
        Shut the log here for good, copy what is left, and give the copy free. Stop every process of the service first.
    take_back
        Give up a move that was begun with --finish and did not end: the log here takes in again.
    password_file
        A file that holds the password of the PostgreSQL user in --to.
    tls
        Connect to the PostgreSQL server in --to by TLS.
    tls_ca_file
        Whom to trust with TLS, in PEM form; without it the system's authorities.
    """
    settings = options.load()
    if finish and take_back:
        raise ConfigError("--finish and --take-back: give one of them")
    target = _copy_target(to, password_file, tls=tls, tls_ca_file=tls_ca_file)
    return run(_copied(settings, target, finish=finish, take_back=take_back))


def _copy_target(to: str, password_file: Path | None, *, tls: bool, tls_ca_file: Path | None) -> DatabaseTarget:
    if (problem := url_problem(to)) is not None:
        raise ConfigError(f"--to: {problem.replace('; set database.password instead', '; give --password-file')}")
    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeError) as exc:
            raise ConfigError(f"--password-file: {password_file} cannot be read") from exc
    return DatabaseTarget(url=to, password=password, tls=tls, tls_ca_file=tls_ca_file)


async def _copied(settings: Settings, target: DatabaseTarget, *, finish: bool, take_back: bool) -> int:
    steps = Steps("log copy")
    async with _both(settings, target) as (source, copy), AsyncExitStack() as stack:
        places, blanking = (place_of(log_target(settings)), place_of(target)), RoleLock(source, BLANKING)
        making = LogCopy(source, copy, from_place=places[0], to_place=places[1], blanking=blanking)
        if take_back:
            await making.take_back()
            print("the log here takes in again; the copy is not used, and may be removed")
            return 0
        stack.push_async_callback(making.close)
        begun = await _begun(making)
        if begun.through:
            steps.say(f"goes on behind position {begun.through}")
        if not finish:
            through = await making.grow(steps.at)
            print(f"log {begun.log_id}: copied up to position {through}, and compared row by row")
            still = "is shut already" if begun.shut else "still takes in: stop every process of the service"
            print(f"the log here {still}; run this again with --finish")
            return 0
        await making.grow(steps.at)  # what the last step does while nothing is taken in should be little
        async with _alone_on(source):
            moved = await making.finish(now(), steps.at)
        _say_moved(moved, place_of(target))
        return 0


async def _begun(making: LogCopy) -> Copied:
    """Begin, also where a piece of retention is just being done."""
    for _ in range(PIECES):
        with suppress(TransientError):
            return await making.begin(now())
        await within(asyncio.Event(), PIECE_S)
    return await making.begin(now())


def _say_moved(moved: Copied, place: str) -> None:
    print(f"log {moved.log_id} has moved to {place}, with all positions up to {moved.end}")
    print("the log here is shut for good; nothing in it was removed")
    print(
        "set database.url to the new place, run `db upgrade` and then `serve`: the tables are made from the log again"
    )


@asynccontextmanager
async def _both(settings: Settings, target: DatabaseTarget) -> AsyncIterator[tuple[Database, Database]]:
    """Open both logs whatever they are marked as, with the target's schema made; no other copy works on the target."""
    if place_of(target) == place_of(log_target(settings)):
        raise ConfigError("--to: names the log itself")
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(opened_log(settings, even_moved=True))
        await upgrade("log", target)
        copy = await open_log(target, migrate=False, even_moved=True)
        stack.push_async_callback(copy.close)
        lock = RoleLock(copy, "copy")
        stack.push_async_callback(lock.release)
        if not await lock.take():
            raise IntegrityError("another `log copy` works on this target")
        await stack.enter_async_context(_alone_on(copy))
        yield source, copy


@asynccontextmanager
async def _alone_on(log: Database) -> AsyncIterator[None]:
    """Hold the locks of roles that work on a log; raise IntegrityError where a process of the service has one."""
    async with AsyncExitStack() as stack:
        for role in WORKING:
            lock = RoleLock(log, role)
            stack.push_async_callback(lock.release)
            if not await lock.take():
                place = log.path or "the server"
                raise IntegrityError(
                    f"a process has the role {role} on {place}: stop every process of the service first"
                )
        yield
