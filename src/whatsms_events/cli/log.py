"""`log verify`: prove that the log is what was received."""

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.progress import Steps
from whatsms_events.cli.running import run
from whatsms_events.domain.seals import SAYS
from whatsms_events.errors import ConfigError
from whatsms_events.service.parts import opened_log
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.verify import CheckedLog, verify

Behind = Annotated[int, Parameter(validator=Number(gte=0, lt=2**63))]
Through = Annotated[int | None, Parameter(validator=Number(gte=1, lt=2**63))]


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
        Begin behind this position, as after an earlier check that ended there.
    through
        End at this position. Without it: at the end of the log.
    head
        A `head` that an earlier check printed. It must still be in the chain: whoever changes rows and makes all seals
        anew cannot make that one again.
    json
        Print JSON.
    """
    settings = options.load()
    digest = _digest(head)
    steps = Steps("log verify")

    async def checked() -> tuple[CheckedLog, bool]:
        async with opened_log(settings) as log:
            seen = await verify(
                log, after=after, through=through, on_progress=lambda one: steps.at(one.through, one.end)
            )
            return seen, digest is None or await Seals(log).has(digest)

    seen, has_head = run(checked())
    print(msgspec.json.encode(_plain(seen, has_head=has_head)).decode() if json else _text(seen, has_head=has_head))
    return 0 if seen.flaw is None and has_head else 1


def _digest(head: str | None) -> bytes | None:
    if head is None:
        return None
    try:
        return bytes.fromhex(head)
    except ValueError as exc:
        raise ConfigError("--head: write it as `log verify` prints it") from exc


def _text(seen: CheckedLog, *, has_head: bool) -> str:
    lines = [f"log {seen.log_id}"]
    rows = f"{seen.rows} rows, {seen.blanked} of them blanked" if seen.blanked else f"{seen.rows} rows"
    if seen.through > seen.after:
        lines.append(f"right: positions {seen.after + 1} to {seen.through} ({rows}, {seen.seals} seals)")
    if seen.flaw is not None:
        lines.append(f"wrong at position {seen.flaw.position} ({seen.flaw.fault}): {SAYS[seen.flaw.fault]}")
    elif (open_rows := seen.through - max(seen.sealed_through, seen.after)) > 0:
        lines.append(f"not sealed yet: the last {open_rows} positions, checked by their stored hashes alone")
    if not has_head:
        lines.append("wrong: no seal has the hash that --head names, so the seals were made anew")
    if seen.head is not None:
        lines.append(f"head {seen.head.hex()} (keep it elsewhere, and give it to a later check with --head)")
    return "\n".join(lines)


def _plain(seen: CheckedLog, *, has_head: bool) -> dict[str, Any]:
    flaw = seen.flaw
    wrong = None
    if flaw is not None:
        wrong = {"position": flaw.position, "fault": flaw.fault, "detail": SAYS[flaw.fault]}
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
