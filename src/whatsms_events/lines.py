"""Every log line by its fixed name, with what it means and what it asks of whoever reads it.

`info` happened, `warning` was refused or parked, `error` asks a person to act. `make docs` writes the page from here.
"""

from typing import Final

LINES: Final = {
    "backfill.begun": "A run began, or went on from its checkpoint (`resumed`).",
    "backfill.finished": "A run finished. At warning it left something out: the lines before say what.",
    "backfill.gone_held_back": (
        "So many of an entity are not at the vendor that none was marked as gone. Decide whether they are "
        "really gone (`backfill run --allow-gone`), or whether ids do not meet."
    ),
    "backfill.off": "The tenant has no `api_key`, so nothing that its webhooks miss is found.",
    "backfill.progress": "How far `backfill run` got, every few seconds.",
    "backfill.stopped": (
        "The vendor refuses the key or a list's first page, or its pages never move on. Mend what the reason names."
    ),
    "backfill.waiting": "`backfill run --wait` waits for another run of the tenant to end.",
    "clock.agrees": "Deliveries are again stamped with about the time at which they come.",
    "clock.differs": (
        "For a quarter of an hour deliveries were stamped much earlier or later than they came. Compare "
        "the clocks, or wait for the vendor's queue."
    ),
    "console.did": (
        "Somebody used a button of the console, and it did something: `holder` is the name of their token, `kind` the "
        "button, `count` how many it changed, where that is known, `options` what was chosen for a run."
    ),
    "console.unreadable": "A page leaves a part out, since a row in the database cannot be read: see `exception`.",
    "console.opened": "Somebody signed in to the console with the token that `holder` names.",
    "consumer.strays": "Records in our topics that name no log were passed over. Find who writes them.",
    "database.moved": "Another server of `database.url` takes writes now. Nothing to do.",
    "database.readable": "Others than the owner can read a SQLite file. Narrow its mode.",
    "deliveries.parked": "Five signed deliveries in a row were parked for one reason. Look at one with `parked show`.",
    "deliveries.understood": "A delivery was accepted after such a row.",
    "delivery.accepted": "Deliveries were committed: one line for each commit.",
    "delivery.parked": "A signed delivery could not be understood. It is kept: `parked list`.",
    "delivery.rejected": "A delivery was refused. `suppressed` says how many lines like it were left out.",
    "delivery.unparsable": "Bytes that are no HTTP request came, with the tenant where the path could be read.",
    "detail.forbidden": "The key may not read this ticket, contact or list of messages. It was left out.",
    "detail.not_read": "One ticket or contact has no usable answer by id. It is left to the next run.",
    "event.parked": "An event could not be applied to the projection. The rest goes on.",
    "events.retried": "Parked events were tried again at the start (`consumer.retry_parked`); `parked` are left.",
    "feed.cut_off": "A reader of the event feed took nothing for 30 seconds and was cut off. It may come again.",
    "feed.restored": (
        "The log ends before what readers of the event feed have: it was restored from an older copy. They were cut "
        "off, and are refused where they come again with an event that the log does not hold."
    ),
    "forgetting.followed": (
        "Something turned out to be a forgotten person's, from before: it was kept, and is blanked now like the rest."
    ),
    "forgetting.not_followed": (
        "This contact had the number of somebody who was forgotten in a late event, but the tables know another number "
        "of it, or none; or this ticket is theirs by now, but the log shows it with another contact. Nothing of it was "
        "blanked. Forget the contact by its id, or the person once more, if it was theirs before."
    ),
    "http.failed": "An answer failed outside every route. The class says what it was.",
    "http.refused": "A request was refused before it reached a route.",
    "library.logged": "A library logged something itself. `library` and `at` say where.",
    "list.ended": "A list of the REST API broke off. What it showed is repaired, what it hides is not.",
    "log.away": "The log's database cannot be used. Deliveries get 503 until it is back.",
    "log.back": "The log's database is back.",
    "log.replaced": (
        "SQLite's files are not those that are open any more. Nothing is acknowledged. Do what the reason "
        "says before you restart: the process may hold the only copy."
    ),
    "messages.not_read": "A ticket's messages have no usable answer, or repeat a page. They are left to the next run.",
    "observation.appended": "A backfill appended observations: one line for each commit.",
    "observation.parked": "An observation could not be stored and was parked.",
    "observation.refused": "The vendor's answer was about something else than what was asked for.",
    "observation.too_large": "An observation is larger than a topic takes, and was left out.",
    "personal.shown": "A page or an answer showed what is personal: to the holder of which token, of which things.",
    "process.crashed": "The process ends on an error that nobody expected. This is our mistake: report it.",
    "python.unraisable": "Python met an error that it could not raise.",
    "python.warned": "Python or a library warned.",
    "relay.hanging": "Partitions hang, so the relay opens again.",
    "relay.keeps_for_ever": (
        "These topics have no limit of time, so Kafka never forgets a person. Give them `retention.ms` by Kafka's own "
        "tools: the log is the archive. The relay looks again every hour."
    ),
    "relay.opened": "The relay opened, and publishes from here.",
    "relay.strays": "The last records of partitions name no log and were passed over. Find who writes them.",
    "request.failed": "A request failed by a mistake of ours and got 500. Report it.",
    "retention.blanked": "Retention blanked or removed rows whose time was over: one line for each kind and spell.",
    "role.active": "The role works in this process now.",
    "role.fenced": "Another process took the role over. This one stands by.",
    "role.halted": (
        "A person must decide: the reason says what does not fit. The role looks again after a minute, then ever less "
        "often, up to an hour."
    ),
    "role.recovered": "A role that had stalled moves again.",
    "role.resumed": "A role that had halted goes on, because the cause is gone.",
    "role.retrying": "A piece of work failed and is tried again with growing waits.",
    "role.stalled": "A role fails, or nobody moves on although there is more to do. The reason says which.",
    "role.standby": "The role waits in this process: another one has it, or something is away.",
    "role.unlooked": "A halted role could not look, since what it looks at is away.",
    "secrets.uncounted": (
        "The process stopped and could not save its last seconds of which secrets fitted. `secrets status` lacks them."
    ),
    "service.handed_over": "Another process has the listening sockets now (`handover.socket`). This one stops.",
    "service.left_alone": "The process before this one ended before this one was ready (`handover.socket`). "
    "Deliveries wait for up to ten seconds, and get 503 then until a database can commit.",
    "service.looking": "SIGHUP came: the settings are read again, and halted roles look at once.",
    "service.not_taken": "A process that was taking over ended before it was ready. This one goes on.",
    "service.ready": "The process serves. The addresses of its listeners are beside it.",
    "service.stopped": "The process has stopped in good order.",
    "service.stopping": "The process stops: what has begun is finished.",
    "service.took_over": "The process before this one is told to stop (`handover.socket`).",
    "service.waiting": "The process waits for a database that is away. Deliveries get 503 until then.",
    "settings.applied": "Settings changed without a restart: their names are in `fields`.",
    "settings.refused": (
        "The changed configuration has a mistake: the settings before it stay in force. Mend what the reason names."
    ),
    "settings.waiting": "These settings have changed and need a restart; until then the old ones are in force.",
    "suppression.key": (
        "People were forgotten in this log with a `privacy.key` that this process does not have. Deliveries are taken "
        "in, but what comes late of those people is kept. Give the process the key and restart it."
    ),
    "tables.older": (
        "Tables that were restored from an older copy showed somebody who was forgotten since. Their rows are blanked, "
        "and a consumer of Kafka reads the rest in the log first."
    ),
    "thread.crashed": "A thread ended on an error that nobody expected. Report it.",
    "time.unreadable": (
        "The vendor writes times in a form that is not read. Such events count by when they came. Report it."
    ),
    "token.refused": "Wrong tokens came to the private listener: one line for those that come together.",
    "upstream.retrying": "A request to the REST API failed and is tried again.",
    "webhooks.heard": "Webhooks come again after a silence.",
    "webhooks.silent": (
        "No webhook for long, although the account is active or deliveries are refused. Look at the URL "
        "and the secret at the vendor."
    ),
    "webhooks.unprobed": "The watchdog's look at the REST API failed, so it cannot tell whether silence is a fault.",
}
