"""The boards: each panel is a call, with what a bad value means and the section of the runbook that says what to do.

`python -m deploy.grafana.generate` writes the JSON of `dashboards/`; a test fails where that is stale.
"""

from typing import Final

from deploy.grafana.overview import BEHIND, LATE, OLDEST, OVERVIEW, POSITIONS, SIGNATURES, TURNS
from deploy.grafana.panels import Board, Row, Word, bars, graph, states, text
from deploy.grafana.queries import Query, age, counted, latest, left, mean, quantile, quantiles, rate

from whatsms_events import metrics as m

SEALED: Final = "Prove that the log is whole"
NOT_TAKEN: Final = f"!accepted|duplicate|parked|{SIGNATURES}"
MESSAGES: Final = "message.received|message.sent|message.ack"
BACKFILL: Final[dict[int, Word]] = {0: ("idle", "blue"), 1: ("runs", "green"), 2: ("STOPPED", "red")}
SILENCE: Final[dict[int, Word]] = {0: ("heard", "green"), 1: ("SILENT", "red")}

DOOR: Final = Board(
    "door",
    "the door",
    "Who sends, what is refused and why, what is parked, and how fast and how full the door is.",
    (
        Row("Who sends", (
            graph("Deliveries by tenant", "reqps", rate(m.DELIVERIES, "tenant", "outcome"),
                  "POSTs a second. An empty tenant is an unknown slug: strangers, or a wrong URL at the vendor. "
                  "Anything but accepted and duplicate deserves a look.",
                  "Know what the door answers"),
            graph("Since the last accepted webhook", "s", age(m.LAST_ACCEPTED, "tenant"),
                  "Per tenant, whichever process accepted it. Growing far beyond what is usual at this hour: the "
                  "vendor's hook is off, or its URL wrong. Nothing shown: none ever came.",
                  "WhatsmsSilent"),
            states("Silence", latest(m.SILENT, "tenant"), SILENCE,
                   "SILENT: the watchdog took the silence for a fault; the log line `webhooks.silent` says why. It "
                   "ends with the next accepted webhook.",
                   "WhatsmsSilent"),
        )),
        Row("What is refused", (
            graph("Turned away", "reqps", rate(m.DELIVERIES, "outcome", outcome=NOT_TAKEN),
                  "Deliveries a second that were not taken in, whatever their signature. overloaded, unavailable: the "
                  "database is too slow or away, and the vendor may not come again. too_large: raise the limit. "
                  "unknown_slug: a wrong URL, or strangers.",
                  TURNS),
            graph("Refused signatures", "reqps", rate(m.DELIVERIES, "tenant", "outcome", outcome=SIGNATURES),
                  "Deliveries a second answered with 401. signature_wrong alone and rising: a wrong secret, and what "
                  "is refused is lost until a backfill. signature_missing: strangers, or a hook without a secret.",
                  "WhatsmsRejectsRising"),
        )),
        Row("Secrets", (
            graph("Since each secret fitted last", "s", age(m.SECRET_LAST_MATCH, "tenant", "secret"),
                  "Whichever process took the delivery in. During a rotation the old one must grow far beyond the "
                  "usual gap before it is removed: `secrets status` says when. Nothing shown: it never fitted.",
                  "Rotate a secret"),
            graph("Verified by secret", "reqps", rate(m.SIGNED_BY, "tenant", "secret"),
                  "Which secret fitted. During a rotation the old one goes to zero and can then be removed; the old "
                  "one alone for long: the vendor still has it.",
                  "WhatsmsRetiringSecretInUse"),
        )),
        Row("What is parked", (
            graph("Parked at the door", "ops", rate(m.PARKED, "reason", stage="door"),
                  "Signed deliveries a second that could not be understood; they are kept. Any rise: read "
                  "`whatsms-events parked list`.",
                  "WhatsmsDeliveriesParked"),
            graph("Parked in a row", "short", latest(m.PARKED_IN_A_ROW, "tenant", "instance"),
                  "Verified deliveries parked for one reason since the last accepted one. Five and more: none is "
                  "understood, most often over tenant_id.",
                  "WhatsmsParkedInARow"),
        )),
        Row("How fast", (
            graph("Time to the answer", "s", quantiles(m.DELIVERY_SECONDS),
                  "From the end of the headers to the answer. Above 3 s the vendor may have given up: what it then "
                  "missed only the backfill finds.",
                  TURNS),
            graph("Delay at the door", "s", quantiles(m.DELIVERY_DELAY, 0.95),
                  "Our clock less the vendor's time. Minutes or more: the vendor is late or sends again what failed, "
                  "or a clock is wrong.",
                  "WhatsmsClockOffset"),
            graph("Clocks", "s", latest(m.CLOCK_OFFSET, "tenant"),
                  "Our clock less the vendor's time, of the prompt deliveries alone. A minute or more above or below "
                  "zero: a clock is wrong, or the vendor's queue is late.",
                  "WhatsmsClockOffset"),
        )),
        Row("How full", (
            graph("Waiting for their commit", "short", latest(m.QUEUED_DELIVERIES, "instance", operation="sum"),
                  "Deliveries in the queue. Steadily high: the database is too slow, and 503 come next.",
                  TURNS),
            graph("Bytes in flight", "bytes", latest(m.IN_FLIGHT_BYTES, "instance", operation="sum"),
                  "Bodies that are being received or wait for their commit. Near receiver.in_flight_limit_bytes: new "
                  "deliveries get 503.",
                  TURNS),
            graph("Size of bodies", "bytes", quantiles(m.DELIVERY_BYTES, word="smaller"),
                  "Verified bodies. Close to receiver.body_limit_bytes: raise it before the vendor meets it.",
                  "Know what the door answers"),
            graph("Largest refused body", "bytes", latest(m.LARGEST_REFUSED, "instance"),
                  "Above zero: a signed body got 413. receiver.body_limit_bytes must be above it, and so must the "
                  "limit of the proxy in front.",
                  "Know what the door answers"),
        )),
    ),
)  # fmt: skip

PIPELINE: Final = Board(
    "pipeline",
    "log, Kafka, projection",
    "How far the log, the topics and the tables are, and what holds one of them up.",
    (
        Row("How far each is", (
            POSITIONS,
            graph("Events that Kafka lacks", "short", latest(m.RELAY_LAG).named("events"),
                  "Positions that the log is ahead of what is known to be visible in Kafka. Growing: the broker is "
                  "slow or away, or the relay halted.",
                  LATE),
            graph("Behind the log", "short", latest(m.CONSUMER_LAG, "topic", "partition"),
                  "Positions of the log (topic `log`) and records of each Kafka partition that are not applied. "
                  "Growing: the consumer is slow, away, or halted.",
                  BEHIND),
        )),
        Row("The log", (
            graph("Appended by type", "ops", rate(m.APPENDED, "type"),
                  "Events a second that entered the log. Flat while deliveries are accepted: they are all duplicates "
                  "or parked.",
                  "WhatsmsSilent"),
            graph("Time of a commit", "s", quantiles(m.COMMIT_SECONDS),
                  "One group commit. High: the disk, or another writer holds the log's lock.",
                  "The database is in trouble"),
            graph("Deliveries in one commit", "short", mean(m.COMMIT_ROWS, "on average"),
                  "Always at receiver.batch_limit: the log is the bottleneck.",
                  "The database is in trouble"),
            graph("Not sealed yet", "short", latest(m.SEAL_LAG).named("events"),
                  "Positions of the log that no seal covers: `log verify` cannot tell which of them was changed. "
                  "Growing for more than sealer.interval_s: no consumer runs, or the sealer is off or halted.",
                  SEALED),
            graph("Sealed up to", "none", latest(m.SEALED_THROUGH).named("position"),
                  "The last position that a seal covers. Flat while the log grows: nothing is sealed any more.",
                  SEALED),
            graph("Free disk", "bytes", latest(m.FREE_BYTES, "instance", operation="min"),
                  "Of the disk with the log's SQLite file; nothing with PostgreSQL. Falling towards zero: at zero each "
                  "delivery gets 503.",
                  "WhatsmsDiskFilling"),
        )),
        Row("The event feed", (
            graph("Readers", "short", latest(m.FEED_READERS, "instance"),
                  "Who reads the event feed of each process now. At private.feed_readers_limit the next ones get 503.",
                  "Watch it"),
            graph("Feeds that ended", "ops", rate(m.FEED_ENDED, "reason"),
                  "Feeds a second that ended, by reason. stalled: a reader is too slow, or hangs. full: there are as "
                  "many as may be. restored: the log is older than what readers have.",
                  "Watch it"),
        )),
        Row("Kafka", (
            graph("Published by topic", "ops", rate(m.RELAY_PUBLISHED, "topic"),
                  "Events a second that were committed to Kafka. Flat while the log grows: not publishing.",
                  LATE),
            OLDEST,
            graph("Time of a Kafka transaction", "s", quantiles(m.RELAY_SECONDS),
                  "One transaction of the relay. High: the broker is busy, or the way to it is slow.",
                  LATE),
            graph("Openings", "ops", rate(m.RELAY_OPENINGS, "cause"),
                  "Starts of the relay by cause, a second. More than a few an hour: the broker is not well.",
                  "Other signs of a role"),
            graph("Rows skipped", "ops", rate(m.RELAY_SKIPPED, "reason"),
                  "Rows that the relay left out on purpose, a second: visible ones after an opening. blanked: "
                  "retention was ahead of the relay, and Kafka never had them.",
                  "Other signs of a role"),
            graph("Records of strangers", "ops", rate(m.STRAY_RECORDS, "role", "topic"),
                  "Records in our topics that somebody else wrote. Any: find the writer.",
                  "WhatsmsStrayRecords"),
        )),
        Row("The projection", (
            graph("Applied by type", "ops", rate(m.APPLIED, "type"),
                  "Events a second that entered the projection. Flat while the log grows: the read API shows the past.",
                  BEHIND),
            graph("Time of a transaction", "s", quantiles(m.APPLY_SECONDS),
                  "One transaction of the projection. High: the database.",
                  "The database is in trouble"),
            graph("Parked at the fold", "ops", rate(m.PARKED, "reason", stage="fold"),
                  "Events a second that could not be applied; they are kept. Any rise: read the parked events. More "
                  "than 20 of the last 2,000 stop the consumer.",
                  "WhatsmsEventsParked"),
            graph("Skipped records", "ops", rate(m.CONSUMER_SKIPPED).named("records"),
                  "Records a second that were applied before. Right after a new projection or a switch to Kafka; at "
                  "any other time records came twice.",
                  "Other signs of a role"),
            graph("Times that cannot be read", "ops", rate(m.UNREADABLE_TIMES, "field"),
                  "Such events count by when they came, and what nobody can tell is marked doubtful. Any rise of "
                  "timestamp or updatedAt: the vendor writes times in a new way.",
                  "WhatsmsTimesUnreadable"),
        )),
    ),
)  # fmt: skip

OF_LEVEL: Final = [
    quantile(m.ACK_DELAY, 0.5, f"half are {level} within", level=level) for level in ("sent", "delivered", "read")
]

MESSAGES_BOARD: Final = Board(
    "messages",
    "messages and acks",
    "What becomes of messages: how many come and go, how far the ones that we sent get, and how long that takes.",
    (
        Row("Come and gone", (
            graph("Messages and acks", "ops", rate(m.APPLIED, "type", type=MESSAGES),
                  "Events a second that entered the tables. message.ack at zero while message.sent goes on: acks do "
                  "not come in, or the channel is disconnected.",
                  "WhatsmsAcksStuck"),
            graph("Acks by level", "ops", rate(m.ACKS, "level"),
                  "Messages a second that reached a level for the first time. failed rising: the channel refuses "
                  "them, or the numbers are wrong.",
                  "WhatsmsAcksStuck"),
            bars("How far messages got", "short",
                 Query(f"sum by (level) ({counted(m.ACKS, 'increase', '$__range')})", "{{level}}"),
                 "Messages that reached each level within the time shown. Each bar is shorter than the one before. "
                 "delivered far below sent: a channel is disconnected.",
                 "WhatsmsAcksStuck"),
        )),
        Row("How long it takes", (
            graph("Time to a level", "s", OF_LEVEL,
                  "From the message's creation to the level. sent rising: the vendor's queue. delivered rising: the "
                  "channel or the contacts' phones. read is the contacts' own affair.",
                  "WhatsmsAcksStuck"),
            graph("Slow deliveries", "s", quantile(m.ACK_DELAY, 0.95, "95 % are delivered within", level="delivered"),
                  "Some phones are always off. Rising for all tickets of one channel: look at the channel at the "
                  "vendor.",
                  "WhatsmsAcksStuck"),
            graph("Not delivered for a day", "short", latest(m.UNDELIVERED, "tenant"),
                  "Messages of ours, one to eight days old, neither delivered nor failed. Far more than usual: a "
                  "channel is disconnected, or acks do not come in.",
                  "WhatsmsAcksStuck"),
        )),
    ),
)  # fmt: skip

BACKFILL_BOARD: Final = Board(
    "backfill",
    "backfill and drift",
    "Whether what the webhooks missed is found, what was found, and what holds a run up.",
    (
        Row("Does it run", (
            states("Backfill", latest(m.BACKFILL_STATE, "tenant"), BACKFILL,
                   "What each tenant's backfill does. Running for hours: look at `whatsms-events backfill status`. "
                   "STOPPED: a person must decide, /readyz says why.",
                   "WhatsmsBackfillStopped"),
            graph("Since the last full reconcile", "s", age(m.BACKFILL_LAST_SUCCESS, "tenant"),
                  "Far above backfill.interval_s: nothing repairs. Nothing shown: none ever finished.",
                  "WhatsmsBackfillOverdue"),
            graph("Left to do", "short", latest(m.BACKFILL_REMAINING, "tenant"),
                  "Items of the run that is under way. Not falling: no budget is left, or the API is away.",
                  "WhatsmsBackfillOverdue"),
        )),
        Row("What it found", (
            graph("Drift of the last reconcile", "short", latest(m.DRIFT, "entity", "kind"),
                  "Differences between the vendor's API and what was held here, all tenants together; they are "
                  "repaired by then. Zero is healthy. missed, stale: webhooks that never came. extra: the vendor no "
                  "longer shows it.",
                  "WhatsmsDriftFound"),
            graph("Found and repaired", "ops", rate(m.BACKFILL_OBSERVED, "entity", "kind"),
                  "Observations a second that backfills appended. A steady rise of missed: webhooks do not come in.",
                  "WhatsmsDriftFound"),
        )),
        Row("What it left out", (
            graph("Left to the next run", "short", latest(m.BACKFILL_UNSETTLED, "tenant"),
                  "What kept changing or could not be read. Above zero run after run: log lines at warning say why.",
                  "Other signs of a backfill"),
            graph("Lists not read to their end", "short", latest(m.BACKFILL_UNSTABLE, "tenant"),
                  "Above zero run after run: the log line `list.ended` and the report say which list and why.",
                  "Other signs of a backfill"),
            graph("Forbidden", "short", latest(m.BACKFILL_FORBIDDEN, "tenant"),
                  "Tickets and contacts that the key may not read. Above zero: give it the right to them.",
                  "Other signs of a backfill"),
            graph("Not marked as gone", "short", latest(m.BACKFILL_HELD_BACK, "tenant", "entity"),
                  "So many are not at the vendor that a person must decide. Above zero: look whether the key sees all.",
                  "WhatsmsGoneHeldBack"),
        )),
        Row("The vendor's REST API", (
            graph("Requests to the vendor", "reqps", rate(m.UPSTREAM_REQUESTS, "outcome"),
                  "Requests a second, each try. limited: others spend the same key's budget. refused: our request or "
                  "key is wrong. unavailable: the vendor is down.",
                  "Other signs of a backfill"),
            graph("Waiting for the rate limits", "short", rate(m.UPSTREAM_WAIT).named("waited"),
                  "Seconds a second that requests waited for the limits and for pauses after a 429. Near 1 and above: "
                  "the budget is what a backfill waits for.",
                  "Other signs of a backfill"),
        )),
    ),
)  # fmt: skip

ABOUT_PEOPLE: Final = """
What is held of people, where, who can see it, and how it goes: `docs/privacy.md`.

By tenant and place, with what is due to go: `privacy report`.
"""

PRIVACY: Final = Board(
    "privacy",
    "privacy",
    "What is held of people, and what of it should not be held any more.",
    (
        Row("What is held", (
            text("What this board shows", ABOUT_PEOPLE.strip(),
                 "Where to read on, and which command says more.", "Watch it"),
            graph("Events held", "short", latest(m.LOG_END).named("events"),
                  "Positions of the log. Each has the exact bytes of a delivery with names and texts, until its days "
                  "are over: none is removed, so it only grows.",
                  "Back it up"),
            graph("Events a second that are kept", "ops", rate(m.APPENDED, "type"),
                  "How fast it grows, and with what: message.* has texts, contact.* has names and numbers.",
                  "Back it up"),
        )),
        Row("Of how many people", (
            graph("People", "short", latest(m.HELD_PEOPLE, "tenant"),
                  "Contacts that are no group, and of which a name or a number is held; a million at most.",
                  "Somebody asks what you hold of them"),
            graph("Held in each place", "short", latest(m.HELD_ROWS, "place", operation="sum"),
                  "Rows in each place: of a large log an estimate, elsewhere exact up to a million. privacy report "
                  "says it by tenant, with what is due to go.",
                  "Somebody asks what you hold of them"),
        )),
        Row("What is kept although nobody may need it", (
            graph("Kept unread at the door", "ops", rate(m.PARKED, "reason", stage="door"),
                  "Parked deliveries a second. Their bytes are kept until somebody retries or discards them: do that "
                  "soon.",
                  "Look at what was parked"),
            graph("Kept unread at the fold", "ops", rate(m.PARKED, "reason", stage="fold"),
                  "Parked events a second, kept with their bytes until a retry applies them.",
                  "Look at what was parked"),
            graph("Refused for their signature", "reqps", rate(m.DELIVERIES, "tenant", outcome=SIGNATURES),
                  "Where receiver.keep_rejects is not 0, the last of them are in the receiver's memory for a day, "
                  "whoever sent them. Set it back to 0 when the reason is found.",
                  "Explain a refused signature"),
        )),
        Row("Who was forgotten", (
            graph("People forgotten", "short", latest(m.FORGOTTEN_PEOPLE, "tenant"),
                  "Contacts that were forgotten. privacy report names them by their ids.",
                  "Somebody asks to be forgotten"),
            graph("How long Kafka still has them", "s", left(m.FORGOTTEN_KAFKA_UNTIL, "tenant"),
                  "Until the topics surely have nothing any more of the last person who was forgotten. It counts down "
                  "to zero. Where a topic keeps for ever there is no end to name.",
                  "Somebody asks to be forgotten"),
            graph("Blanked when it came late", "ops", rate(m.SUPPRESSED, "type"),
                  "Events and parked deliveries a second that told something old of somebody who was forgotten. A "
                  "few are retries. Many for long: the vendor still has the person, and tells of them.",
                  "Somebody asks to be forgotten"),
            graph("Left to you: not followed", "short",
                  Query(f"sum by (entity) ({counted(m.NOT_FOLLOWED, 'increase')})", "{{entity}}"),
                  "Contacts and tickets that may be those of somebody who was forgotten, or somebody else's. The log "
                  "line forgetting.not_followed names each: forget it by its id if it is theirs.",
                  "Somebody asks to be forgotten"),
            graph("Left to you: parked, and not read", "short", latest(m.FORGOTTEN_UNREAD, "tenant"),
                  "Parked deliveries in a form that is not read here, so nobody knows whom they name. privacy report "
                  "names them: look at each, and discard it.",
                  "Somebody asks to be forgotten"),
        )),
        Row("What Kafka still has", (
            graph("How long the topics keep", "s", latest(m.TOPIC_KEEPS, "topic"),
                  "After so long a record is surely removed. Infinite: this topic keeps for ever, and a person who was "
                  "forgotten here stays there.",
                  "Other signs of a role"),
        )),
        Row("Who asked", (
            graph("Refused at the private listener", "ops", rate(m.TOKENS_REFUSED, "reason"),
                  "wrong rising: somebody guesses, or a token was changed and a reader has the old one. scope: a token "
                  "was used for what it may not do. host: a page led a browser here.",
                  "Refused at the private listener"),
        )),
        Row("What has an end", (
            graph("Age of the oldest that has an end", "s",
                  age(m.RETENTION_OLDEST, "kind"),
                  "How old the oldest is that is kept of what has an end, by kind. It stops at the days of the "
                  "setting; beyond them something holds retention up.",
                  "WhatsmsRetentionBehind"),
            graph("How far retention is behind", "s", latest(m.RETENTION_BEHIND, "kind"),
                  "For how long the oldest that is due has been so. Over a day: relay or consumer are behind, or "
                  "nobody blanks.",
                  "WhatsmsRetentionBehind"),
            graph("Blanked by retention", "ops", rate(m.RETENTION_BLANKED, "kind"),
                  "Rows a second that were blanked or removed, since their days were over.",
                  "WhatsmsRetentionBehind"),
        )),
        Row("What the vendor no longer shows", (
            graph("Held here, gone at the vendor", "short", latest(m.DRIFT, "entity", kind="extra"),
                  "What the last reconcile found here and not at the vendor, where somebody may have had it erased. "
                  "It is marked as gone and not removed: erase it here too, as docs/privacy.md says.",
                  "What counts as gone"),
            graph("Not marked as gone", "short", latest(m.BACKFILL_HELD_BACK, "tenant", "entity"),
                  "The same, but so many that none was marked. Above zero: a person must decide.",
                  "WhatsmsGoneHeldBack"),
        )),
    ),
)  # fmt: skip

BOARDS: Final = {
    "overview": OVERVIEW,
    "door": DOOR,
    "pipeline": PIPELINE,
    "messages": MESSAGES_BOARD,
    "backfill": BACKFILL_BOARD,
    "privacy": PRIVACY,
}
"""Every board by the name of its file."""
