"""This module has every Prometheus metric of the service. The text of each says what a high or low value means.

Labels come from closed sets only: outcomes, types, stages, levels, roles, configured slugs, secret names, topics.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString


class BulkHistogram(Histogram):
    """A histogram without labels that takes many values at once, for what each delivery shows.

    The library's own takes a lock twice for each value: with three of them, a twentieth of a delivery's time.
    """

    def __init__(self, name: str, documentation: str, *, buckets: Sequence[float]) -> None:
        self._family = (name, documentation)
        self._bounds = (*buckets, math.inf)
        self._counts = [0] * len(self._bounds)
        self._total = 0.0
        super().__init__(name, documentation, buckets=buckets)

    def observe_all(self, values: Iterable[float]) -> None:
        """Count each of the values."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._total += value

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one value; exemplars are not kept."""
        del exemplar
        self.observe_all((amount,))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return what was counted, for a scrape."""
        below, shown = 0, []
        for bound, count in zip(self._bounds, self._counts, strict=True):
            below += count
            shown.append((floatToGoString(bound), below))  # type: ignore[no-untyped-call]
        return [HistogramMetricFamily(*self._family, buckets=shown, sum_value=self._total)]


_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DELAYS: Final = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400, 604800)

BUILD = Info("whatsms_events_build", "Version of the running program.")

SETTINGS_REFUSED = Gauge(
    "whatsms_events_settings_refused",
    "1: the configuration file or a secret file has changed and has a mistake, or cannot be read, so the settings "
    "before it stay in force. The log line `settings.refused` and `config check` say what to mend.",
)
PRIVACY_KEY_DIFFERS = Gauge(
    "whatsms_events_privacy_key_differs",
    "1: this process has another `privacy.key` than others that append to the same log, or none although they have "
    "one: what comes late of people who were forgotten is kept here. `privacy keys` names every process.",
)
TOKENS_REFUSED = Counter(
    "whatsms_events_tokens_refused_total",
    "Requests to the private listener that were refused, by why: missing or wrong token, scope (the token may not do "
    "that), host (no token is set, and the request came under a strange name). wrong rising: somebody guesses, or a "
    "token was changed and a reader still has the old one.",
    ["reason"],
)

# The door.
DELIVERIES = Counter(
    "whatsms_events_deliveries_total",
    "POSTs by outcome; `tenant` is empty for an unknown slug. Any outcome but accepted and duplicate deserves a look; "
    "signature_wrong rising alone means a wrong secret, with leftover a sender whose Content-Length is too small; "
    "unavailable or overloaded means the vendor was sent away.",
    ["tenant", "outcome"],
)
SIGNED_BY = Counter(
    "whatsms_events_deliveries_signed_total",
    "Verified deliveries by the name of the secret that fitted. An old secret at zero can be removed.",
    ["tenant", "secret"],
)
SECRET_FIRST_MATCH = Gauge(
    "whatsms_events_secret_first_match_timestamp_seconds",
    "When a delivery first fitted this secret, as far as the log knows; 0 for never. Of two secrets in use the one "
    "that began later is the new one.",
    ["tenant", "secret"],
)
SECRET_LAST_MATCH = Gauge(
    "whatsms_events_secret_last_match_timestamp_seconds",
    "When a delivery last fitted this secret, whichever process took it in; 0 for never. `time() - x` growing for an "
    "old secret is what a rotation waits for: `secrets status` says when it is safe to retire.",
    ["tenant", "secret"],
)
DELIVERY_SECONDS = BulkHistogram(
    "whatsms_events_delivery_duration_seconds",
    "From the end of the headers to the answer. Over 3 s the vendor may have given up.",
    buckets=_SECONDS,
)
DELIVERY_BYTES = BulkHistogram(
    "whatsms_events_delivery_size_bytes",
    "Size of verified bodies. Close to the body limit: raise it before the vendor meets it.",
    buckets=(256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 5242880, 16777216, 67108864),
)
LARGEST_REFUSED = Gauge(
    "whatsms_events_largest_refused_bytes",
    "The largest body that this process refused with 413: announced, or of a chunked one as much as was read. Only "
    "deliveries with a signature's form count. Raise receiver.body_limit_bytes above it.",
)
DELIVERY_DELAY = BulkHistogram(
    "whatsms_events_delivery_delay_seconds",
    "Our clock at the door less the vendor's time. High: the vendor is late, retrying, or a clock is wrong.",
    buckets=_DELAYS,
)
PARKED_IN_A_ROW = Gauge(
    "whatsms_events_parked_in_a_row",
    "Verified deliveries that this process parked for one reason since the last one that it accepted. 5 and more: none "
    "is understood, the log line `deliveries.parked` says what to do.",
    ["tenant"],
)
CLOCK_OFFSET = Gauge(
    "whatsms_events_clock_offset_seconds",
    "Our clock at the door less the vendor's time, lower quartile of the last 20 accepted deliveries: retries do not "
    "move it. Minutes above zero: the vendor's clock is behind, or its queue late; below: its clock is ahead.",
    ["tenant"],
)
IN_FLIGHT_BYTES = Gauge(
    "whatsms_events_in_flight_bytes",
    "Bytes of bodies being received or waiting for their commit. Near its limit: new deliveries get 503.",
)
QUEUED_DELIVERIES = Gauge(
    "whatsms_events_queued_deliveries", "Deliveries waiting for their commit. Steadily high: the database is too slow."
)

# The log.
APPENDED = Counter(
    "whatsms_events_appended_total",
    "Events appended to the log. Flat while the vendor sends: look at the door.",
    ["type"],
)
COMMIT_SECONDS = Histogram(
    "whatsms_events_commit_duration_seconds", "One group commit. High: the disk or the log's lock.", buckets=_SECONDS
)
COMMIT_ROWS = Histogram(
    "whatsms_events_commit_deliveries",
    "Deliveries in one group commit. Always at the limit: the log is the bottleneck.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
LOG_END = Gauge(
    "whatsms_events_log_end_position",
    "Highest position of the log, whoever appended it. Flat: nothing new was accepted anywhere.",
)
SEALED_THROUGH = Gauge(
    "whatsms_events_sealed_through_position",
    "The log is sealed up to this position, so that `log verify` can tell which row was changed. Flat while the log "
    "grows: no process with the role consumer runs, or the sealer is off or halted.",
)
SEAL_LAG = Gauge(
    "whatsms_events_seal_lag_events",
    "How many positions of the log are not sealed. Growing for more than sealer.interval_s: the same.",
)
RETENTION_BLANKED = Counter(
    "whatsms_events_retention_blanked_total",
    "Rows that retention blanked or removed, by kind: their time was over. Flat where nothing has an end, or where "
    "nothing is due.",
    ["kind"],
)
RETENTION_OLDEST = Gauge(
    "whatsms_events_retention_oldest_timestamp_seconds",
    "Time of the oldest that is kept of what has an end, by kind; 0 where there is none. `time() - x` is its age, and "
    "beyond the days of the setting only by minutes.",
    ["kind"],
)
RETENTION_BEHIND = Gauge(
    "whatsms_events_retention_behind_seconds",
    "For how long the oldest that is due has been so, by kind. Over a day: something holds retention up, such as a "
    "relay or a consumer that is behind, and the promise to forget is broken.",
    ["kind"],
)
HELD_PEOPLE = Gauge(
    "whatsms_events_held_people",
    "Of how many people something is held: contacts that are no group and have a name or a number; a million at most. "
    "Counted every ten minutes or so. It only grows, unless people are forgotten.",
    ["tenant"],
)
HELD_ROWS = Gauge(
    "whatsms_events_held_rows",
    "How much is held of people in each place: of a large log an estimate, elsewhere exact up to a million. Counted "
    "every ten minutes or so. Growing where `retention` has an end: it is behind.",
    ["tenant", "place"],
)
FORGOTTEN_PEOPLE = Gauge(
    "whatsms_events_forgotten_people",
    "How many contacts were forgotten, by tenant. It never falls.",
    ["tenant"],
)
FORGOTTEN_KAFKA_UNTIL = Gauge(
    "whatsms_events_forgotten_kafka_until_timestamp_seconds",
    "When the topics surely have nothing any more of the last person who was forgotten; 0 where nobody was, or no "
    "topic holds anything. `x - time()` counts down, and below zero Kafka has forgotten everybody.",
    ["tenant"],
)
FORGOTTEN_UNREAD = Gauge(
    "whatsms_events_forgotten_unread_parked",
    "Parked deliveries in a form that is not read here, so that nobody knows whether they tell of somebody who was "
    "forgotten, in a tenant where anybody was; the newest 500 that are compressed are looked at. Above zero: `privacy "
    "report` names them.",
    ["tenant"],
)
NOT_FOLLOWED = Counter(
    "whatsms_events_forgetting_not_followed_total",
    "Contacts and tickets that may be those of somebody who was forgotten, or somebody else's: nothing of them was "
    "blanked. A rise: the log line `forgetting.not_followed` names each; forget it by its id if it is theirs.",
    ["entity"],
)
FREE_BYTES = Gauge(
    "whatsms_events_free_bytes",
    "Free bytes of the disk that the log's SQLite file is on; NaN with PostgreSQL, whose disk this process does not "
    "see. Falling towards zero: at zero deliveries get 503.",
)
SUPPRESSED = Counter(
    "whatsms_events_suppressed_total",
    "Events, and parked deliveries, of which something was blanked when they came, since they tell of somebody who was "
    "forgotten. A rise: the vendor still sends what is old of them.",
    ["type"],
)
PARKED = Counter(
    "whatsms_events_parked_total",
    "Deliveries parked at the door and events parked at the fold. Any rise: read `parked`.",
    ["stage", "reason"],
)

# The event feed.
FEED_READERS = Gauge(
    "whatsms_events_feed_readers",
    "Readers of the event feed of this process now. At private.feed_readers_limit: the next ones get 503.",
)
FEED_ENDED = Counter(
    "whatsms_events_feed_ended_total",
    "Feeds that ended, by reason: left (the reader went), stalled (it took nothing for 30 seconds), slow (it held a "
    "large event, and others waited), full (there were as many as may be, so it was refused), stopping, settings "
    "(token or tenants changed), unavailable (the database), restored (the log ends before what readers had). stalled "
    "rising: a reader is too slow, or hangs.",
    ["reason"],
)

# The relay.
ROLE_STATE = Gauge(
    "whatsms_events_role_state",
    "0 standing by, 1 active, 2 halted: a person must decide; the log line `role.halted` and /readyz say why. It goes "
    "on by itself where the cause is gone.",
    ["role"],
)
ROLE_STALLED = Gauge(
    "whatsms_events_role_stalled_seconds",
    "For how long a role has failed, or has stood still or stood by although there is more to do; 0 is healthy. Over "
    "60: the log line `role.stalled` and /readyz say why.",
    ["role"],
)
RELAY_PUBLISHED = Counter(
    "whatsms_events_relay_published_total",
    "Events committed to Kafka. Flat while the log grows: not publishing.",
    ["topic"],
)
RELAY_LAG = Gauge(
    "whatsms_events_relay_lag_events",
    "How many positions the log is ahead of what is known to be visible in Kafka. Growing: broker slow, away, or "
    "relay halted.",
)
RELAY_OLDEST = Gauge(
    "whatsms_events_relay_oldest_unpublished_timestamp_seconds",
    "When the oldest event that is not known to be visible in Kafka was received; 0 when there is none. "
    "`time() - x` is how late Kafka is.",
)
RELAY_THROUGH = Gauge(
    "whatsms_events_relay_published_through_position",
    "Lower bound: every row up to it is visible in Kafka. Stuck while events are published: a partition hangs.",
)
RELAY_OPENINGS = Counter(
    "whatsms_events_relay_openings_total",
    "Openings by cause: start, error, hanging. More than a few an hour: the broker is not well.",
    ["cause"],
)
RELAY_SKIPPED = Counter(
    "whatsms_events_relay_skipped_total",
    "Rows not published on purpose: visible already (after an opening) or blanked by retention.",
    ["reason"],
)
STRAY_RECORDS = Counter(
    "whatsms_events_stray_records_total",
    "Records in our topics that name no log, so somebody else wrote them, by who met them: the consumer each once, the "
    "relay again at each opening. Any rise: find the writer, and let only the relay write there.",
    ["role", "topic"],
)
TOPIC_KEEPS = Gauge(
    "whatsms_events_topic_keeps_seconds",
    "After so long a record of this topic is surely removed; infinite where the topic keeps for ever, and then no "
    "person is ever forgotten there. The active relay looks at each opening and every hour.",
    ["topic"],
)
RELAY_SECONDS = Histogram(
    "whatsms_events_relay_transaction_duration_seconds", "One Kafka transaction. High: the broker.", buckets=_SECONDS
)

# The consumer and the projection.
CONSUMER_LAG = Gauge(
    "whatsms_events_consumer_lag_records",
    "How far the projection is behind: positions of the log (topic `log`, whatever the source), and records of "
    "each partition while this process reads it. Growing: the consumer is slow, away, or halted.",
    ["topic", "partition"],
)
APPLIED = Counter("whatsms_events_applied_total", "Events applied to the projection.", ["type"])
CONSUMER_SKIPPED = Counter(
    "whatsms_events_consumer_skipped_total",
    "Records skipped because the log gave their events before (once for each new projection and switch to Kafka), "
    "and rows that retention blanked. Rising at any other time: records came twice.",
)
APPLY_SECONDS = Histogram(
    "whatsms_events_apply_duration_seconds", "One transaction of the projection. High: the database.", buckets=_SECONDS
)
APPLIED_THROUGH = Gauge(
    "whatsms_events_applied_through_position", "The projection shows every event up to this position of the log."
)
UNREADABLE_TIMES = Counter(
    "whatsms_events_unreadable_times_total",
    "Times in applied events that could not be read, by the vendor's name of the field. A rise of `timestamp` or "
    "`updatedAt`: events count by when they came, and rows become doubtful; the vendor writes times in a new way.",
    ["field"],
)
ACKS = Counter(
    "whatsms_events_message_acks_total",
    "Messages that reached a level, first time each: the funnel. `failed` counts failures before delivery.",
    ["level"],
)
ACK_DELAY = Histogram(
    "whatsms_events_message_ack_delay_seconds",
    "From the message's creation to the level, as webhooks told it; what a backfill saw is not in it. Delivered "
    "rising: the channel or the contact's phone.",
    ["level"],
    buckets=_DELAYS,
)
UNDELIVERED = Gauge(
    "whatsms_events_undelivered_messages",
    "Messages of ours that are one to eight days old and were neither delivered nor deleted, and of which no failure "
    "was told; at most 10,000. A few are phones that are off. Many more than usual: the channel is disconnected.",
    ["tenant"],
)

# The vendor's REST API and the backfill.
UPSTREAM_REQUESTS = Counter(
    "whatsms_events_upstream_requests_total",
    "Requests to the vendor's REST API, each try, by outcome: ok, limited (429), refused (our request or key is "
    "wrong), unavailable (5xx, timeouts, broken connections). Limited rising: others spend the same key's budget.",
    ["outcome"],
)
UPSTREAM_WAIT = Counter(
    "whatsms_events_upstream_wait_seconds_total",
    "Seconds that requests waited for the rate limits and for pauses after a 429. A rate near 1: the budget is what "
    "the backfill waits for.",
)
BACKFILL_STATE = Gauge(
    "whatsms_events_backfill_state",
    "0 idle, 1 a run is not finished, 2 stopped: the log line `role.halted` and /readyz say why. 1 for hours: look at "
    "`backfill status`.",
    ["tenant"],
)
BACKFILL_OBSERVED = Counter(
    "whatsms_events_backfill_observed_total",
    "Observations that backfills appended, by entity and kind of difference. A steady rise of `missed`: webhooks "
    "do not come in.",
    ["entity", "kind"],
)
BACKFILL_REMAINING = Gauge(
    "whatsms_events_backfill_remaining_items",
    "Items of the unfinished run that are not done; 0 without one. Not falling: no budget, or the API is away.",
    ["tenant"],
)
BACKFILL_UNSETTLED = Gauge(
    "whatsms_events_backfill_unsettled",
    "What the last finished reconcile left to the next one: it kept changing or could not be read. Above zero run "
    "after run: log lines at warning (`messages.not_read`, `detail.not_read`, `observation.*`, `upstream.retrying`) "
    "say why.",
    ["tenant"],
)
BACKFILL_UNSTABLE = Gauge(
    "whatsms_events_backfill_unstable_lists",
    "Lists that the last finished reconcile did not read to a quiet end: they went on changing, or answered oddly. "
    "Above zero run after run: the log line `list.ended` and the report say which and why.",
    ["tenant"],
)
BACKFILL_FORBIDDEN = Gauge(
    "whatsms_events_backfill_forbidden",
    "Tickets and contacts that the last finished reconcile had no right to read (403) and left out. Above zero: the "
    "log line `detail.forbidden` and the report name them; give the API key the right to them.",
    ["tenant"],
)
BACKFILL_HELD_BACK = Gauge(
    "whatsms_events_backfill_gone_held_back",
    "Entities that the last finished reconcile did not find at the vendor and did not mark as gone, because they are "
    "too many. Above zero: look at the log line `backfill.gone_held_back`; somebody must decide.",
    ["tenant", "entity"],
)
BACKFILL_LAST_SUCCESS = Gauge(
    "whatsms_events_backfill_last_success_timestamp_seconds",
    "When the last full reconcile finished; 0 for never. `time() - x` far above backfill.interval_s: nothing repairs.",
    ["tenant"],
)
DRIFT = Gauge(
    "whatsms_events_drift",
    "Differences that the last finished reconcile found, all tenants together. Zero is healthy; `missed` and `stale` "
    "mean webhooks that never came, `extra` what the vendor no longer shows.",
    ["entity", "kind"],
)

# Silence.
SILENT = Gauge(
    "whatsms_events_silent",
    "1: no webhook was accepted for far longer than usual while the account is active or deliveries are refused. "
    "Look at the webhook's URL and secret at the vendor.",
    ["tenant"],
)
LAST_ACCEPTED = Gauge(
    "whatsms_events_last_accepted_timestamp_seconds",
    "When the last webhook was accepted; 0 for never. `time() - x` growing: silence.",
    ["tenant"],
)


def forget(slug: str) -> None:
    """Show nothing any more of a tenant that the configuration no longer has; its counters stay, as counters do."""
    for one in tuple(globals().values()):
        if isinstance(one, Gauge) and "tenant" in one._labelnames:  # noqa: SLF001 - the library does not tell
            one.remove_by_labels({"tenant": slug})
    for role in (f"backfill.{slug}", f"watchdog.{slug}"):
        for gauge in (ROLE_STATE, ROLE_STALLED):
            gauge.remove_by_labels({"role": role})
