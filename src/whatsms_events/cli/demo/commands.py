"""`demo`: the service beside a WhatSMS that runs offline, in a folder of its own."""

import sys

import structlog

from whatsms_events import logs
from whatsms_events.cli.demo import play
from whatsms_events.cli.demo.settings import prepared
from whatsms_events.cli.options import DEFAULTS, Positive, SettingsOptions
from whatsms_events.cli.running import run, stop_on_signals

log = structlog.get_logger()


def demo(
    *,
    seconds: Positive | None = None,
    json: bool = False,
    rate: Positive = 200.0,
    seed: int = 1,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Run the service together with a WhatSMS that runs offline, and prove that nothing accepted was lost.

    It uses fresh SQLite files in the folder `demo` of `data_dir`; Kafka only if kafka.bootstrap_servers is set.

    Parameters
    ----------
    seconds
        Stop after so many seconds; without it, on Ctrl-C.
    json
        Print the last summary as JSON, alone on standard output.
    rate
        Webhooks a second.
    seed
        Of the offline world; the same seed sends the same story.
    """
    settings = options.load()
    with prepared(settings) as ready, (ready.data_dir / "service.log").open("ab", buffering=0) as lines:
        logs.configure(settings.logs.level, lines)

        async def main() -> bool:
            return await play.run(ready, stop_on_signals(), seconds=seconds, rate=rate, seed=seed, as_json=json)

        try:
            return 0 if run(main()) else 1
        except BaseException as exc:
            log.critical("process.crashed", exc_info=exc)
            print(f"the demo ended early; {lines.name} says more", file=sys.stderr)
            raise
