"""Find a command by its name, run it, and exit: 0 done, 1 failed, 2 the configuration or the call is wrong.

Whatever only a command needs is imported when the command is called: `--help` waits for no database, no broker and no
logging. Help that lists commands is plain text, since rendering Markdown takes half of the time.
"""

import sys
from typing import Final

from cyclopts import App, Parameter

from whatsms_events import __version__
from whatsms_events.errors import ConfigError, WhatsmsEventsError

app: Final = App(
    name="whatsms-events",
    version=__version__,
    # A switch has one spelling: no --no-json beside --json, no --empty-set beside --set.
    default_parameter=Parameter(negative=()),
    help_format="plaintext",
    help="Take WhatSMS webhooks, keep them in a durable log, publish them to Kafka, and project them for queries.",
)

GROUPS: Final = {
    "config": "Look at the configuration.",
    "db": "Look after the database.",
    "topics": "Look after the Kafka topics.",
    "events": "Look at the event log.",
    "log": "Prove that the log is what was received, and move it to another database.",
    "parked": "See to deliveries that could not be understood, and to events that could not be applied.",
    "backfill": "Find and repair what the webhook missed.",
    "replay": "Read the log again with this release: new tables, or topics of their own.",
    "secrets": "Rotate webhook secrets.",
    "suppressions": "Keep people forgotten where a log is restored from a backup.",
    "privacy": "See what is held of people.",
}

COMMANDS: Final = {
    "serve": ("serve:serve", "Run the service until SIGTERM or SIGINT."),
    "demo": (
        "demo.commands:demo",
        "Run the service together with a WhatSMS that runs offline, and prove that nothing accepted was lost.",
    ),
    "twin": (
        "twin:run_twin",
        "Run a WhatSMS that lives offline: signed webhooks and the REST API, with faults on demand.",
    ),
    "verify": (
        "verify:verify",
        "Say why a saved delivery got 401: which secret, header or change of the body would have matched.",
    ),
    "completion": ("completion:completion", "Print the script with which bash, zsh or fish completes the commands."),
    "config check": (
        "config:check",
        "Say every mistake of the configuration, a line each, and end with status 2; or say that it can be used.",
    ),
    "config show": ("config:show", "Print every setting and where it comes from; secrets are not shown."),
    "config diff": (
        "difference:diff",
        "Compare the settings of a running process with the configuration as it is now, a line for each difference.",
    ),
    "db upgrade": ("db:upgrade", "Migrate log and projection to what this release needs."),
    "topics create": (
        "topics:create",
        "Create the three topics; those that exist are compared with the settings and never changed.",
    ),
    "backup": (
        "backup:backup",
        "Copy log and tables into a new folder while the service runs, and prove the copies; for SQLite.",
    ),
    "events list": (
        "events:list_",
        "List events of the log in their order: position, when, tenant, type, what it is about.",
    ),
    "events show": ("events:show_", "Print one event of the log as JSON, or the bytes it came as."),
    "events tail": ("tail:tail_", "Print events as they are appended, until SIGINT or SIGTERM."),
    "trace": (
        "trace:trace",
        "Say what became of an event: how it came in, where it is in log and Kafka, and what it changed in the tables.",
    ),
    "export": (
        "export.commands:export",
        "Write everything that is held of one person into a new folder: JSON, a page to read, a list of media URLs.",
    ),
    "log verify": (
        "log:verify_",
        "Check the log from its bytes up (bytes, stored hash, seal, chain), and name the first position that is bad.",
    ),
    "log copy": (
        "log:copy_",
        "Copy the log to another database, row by row with its positions and ids, and with --finish move it there.",
    ),
    "parked list": (
        "parked:list_",
        "List parked deliveries, oldest first, and then parked events: name, when, tenant, reason, detail, bytes.",
    ),
    "parked show": (
        "parked:show_",
        "Write the bytes of one parked delivery or event to standard output, as they came.",
    ),
    "parked retry": (
        "parked:retry_",
        "Read again with this release what was parked, and append it to the log, or apply it to the projection.",
    ),
    "parked discard": ("parked:discard_", "Discard one parked delivery or event, or all with a reason."),
    "parked restore": (
        "parked:restore_",
        "Park again what was discarded: one delivery or event, or all with a reason.",
    ),
    "backfill run": (
        "backfill.commands:run_",
        "Compare everything with the vendor's REST API now, repair what differs, and say what it was.",
    ),
    "backfill status": (
        "backfill.commands:status_",
        "Say how the last backfills went and how far the one is that has not finished; asks the database alone.",
    ),
    "backfill stop": (
        "backfill.commands:stop_",
        "End a run before its end, whichever process has it; what it repaired stays.",
    ),
    "replay projection": (
        "replay.commands:projection_",
        "Compare the tables with what this release makes of the log, and swap them.",
    ),
    "replay kafka": (
        "replay.commands:kafka_",
        "Publish events of the log once more, into shadow topics under a prefix of their own.",
    ),
    "replay status": (
        "replay.commands:status_",
        "Say which replays there were, the last one first, and how far one is that has not finished.",
    ),
    "replay discard": (
        "replay.commands:discard_",
        "Give up the replay that is not finished, and remove its shadow; shadow topics are left to you.",
    ),
    "forget": (
        "forget:forget",
        "Erase a person: blank all that log, tables, parked and backfills hold of them, now and when it comes late.",
    ),
    "suppressions export": (
        "suppressions:export_",
        "Write the marks of everybody who was forgotten into a file: keyed hashes and moments, and nothing else.",
    ),
    "suppressions import": (
        "suppressions:import_",
        "Take the marks of a file into a log that was restored, and blank what it holds of the people forgotten since.",
    ),
    "privacy report": (
        "privacy:report_",
        "Say per tenant what is held of people: in which place, how much, how old, and how much of it is due to go.",
    ),
    "privacy keys": (
        "privacy:keys",
        "Say of each process that appends which `privacy.key` it has, by a fingerprint, and whether it fits.",
    ),
    "secrets status": (
        "secrets:status_",
        "Say of each webhook secret when it last fitted a delivery, how many it fitted, and whether it may go.",
    ),
}
"""Where each command is, and the first line of its help."""

for _name, _help in GROUPS.items():
    app.command(App(name=_name, help=_help))
for _words, (_place, _help) in COMMANDS.items():
    *_above, _name = _words.split()
    _group = app[_above[0]] if _above else app
    _group.command(f"whatsms_events.cli.{_place}", name=_name, help=_help, help_format="markdown")


def main() -> None:
    """Run a command and exit with its status."""
    try:
        command, bound, _ignored = app.parse_args()
        if not command.__module__.startswith("cyclopts."):  # its own are --help and --version, which log nothing
            _configure_logs()
        sys.exit(command(*bound.args, **bound.kwargs))
    except KeyboardInterrupt:
        sys.exit(130)
    except (WhatsmsEventsError, OSError, BaseExceptionGroup) as raised:
        sys.exit(_told(raised))


def _configure_logs() -> None:
    """Send our log lines to standard error, since standard output is for data, and silence the libraries."""
    import logging  # noqa: PLC0415 - see above

    from whatsms_events import logs  # noqa: PLC0415

    logs.configure("warning")
    logging.getLogger().handlers[:] = [logging.NullHandler()]


def _told(raised: BaseException) -> int:
    """Print what a person must know of an error, a line for each problem, and return the exit status."""
    from whatsms_events.cli.running import cause  # noqa: PLC0415
    from whatsms_events.cli.terminal import say  # noqa: PLC0415

    found = cause(raised)
    match found:
        case ConfigError():
            for problem in found.problems:
                say(problem, file=sys.stderr)
            return 2
        case WhatsmsEventsError():
            say(f"{type(found).__name__}: {found}", file=sys.stderr)
            return 1
        case OSError():  # a port that is taken, a folder that cannot be written
            print(found.strerror or type(found).__name__, file=sys.stderr)
            return 1
        case _:
            raise raised
