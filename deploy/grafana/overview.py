"""The first board: in one line of words whether the service works, and below what asks for a person."""

from typing import Final

from deploy.grafana.panels import Board, Row, Word, answer, graph, states, table
from deploy.grafana.queries import PROCESS, Query, age, chosen, counted, latest, of_python, rate

from whatsms_events import metrics as m

TURNED_AWAY: Final = "overloaded|unavailable|failed"
SIGNATURES: Final = "signature_.*"

ROLE: Final[dict[int, Word]] = {0: ("stands by", "blue"), 1: ("active", "green"), 2: ("HALTED", "red")}
SETTINGS: Final[dict[int, Word]] = {0: ("in force", "green"), 1: ("REFUSED", "red")}
KEYS: Final[dict[int, Word]] = {0: ("fits", "green"), 1: ("DIFFERS", "red")}
UP: Final[dict[int, Word]] = {0: ("DOWN", "red"), 1: ("up", "green")}

# Words that more than one board needs.
DOWN: Final = "WhatsmsProcessDown"
TURNS: Final = "WhatsmsDeliveriesTurnedAway"
LATE: Final = "WhatsmsRelayStalled"
BEHIND: Final = "WhatsmsConsumerLate"


# Answers: the sum of two conditions, so that each number has its word.


def some(expr: str) -> str:
    """Return 1 where there was any within the last minutes, else 0."""
    return f"((sum({expr}) or vector(0)) > bool 0)"


def role_trouble(role: str) -> str:
    """Return 2 where the role has halted, 4 where nobody has it, else 0; nothing where no process may have it."""
    state = f"max({chosen(m.ROLE_STATE, role=role)})"
    return f"2 * ({state} == bool 2) + 4 * ({state} == bool 0)"


def of_role(healthy: str, slow: str) -> dict[int, Word]:
    """Return the words of a role's answer."""
    return {
        0: (healthy, "green"), 1: (slow, "orange"),
        2: ("HALTED", "red"), 3: ("HALTED", "red"), 4: ("NOBODY", "red"), 5: ("NOBODY", "red"),
    }  # fmt: skip


REFUSED: Final = some(counted(m.DELIVERIES, "increase", outcome=SIGNATURES))
NONE_VERIFIED: Final = f"((sum({counted(m.SIGNED_BY, 'increase')}) or vector(0)) == bool 0)"

ANSWERS: Final = (
    answer(
        "Receiving",
        f"clamp_max(2 * max({chosen(m.SILENT)}) + {some(counted(m.DELIVERIES, 'increase', outcome=TURNED_AWAY))}, 2)",
        {0: ("receives", "green"), 1: ("TURNS AWAY", "orange"), 2: ("SILENT", "red")},
        ("no receiver", "red"),
        "Do webhooks reach us? SILENT: none was accepted for far longer than usual while the account is active or "
        "deliveries are refused: look at the webhook's URL and secret at the vendor. TURNS AWAY: deliveries got 503 "
        "or 500 within the last minutes: look at the database and the log.",
        "WhatsmsSilent",
    ),
    answer(
        "Verifying",
        f"({REFUSED} + {REFUSED} * {NONE_VERIFIED}) and on() {chosen(m.LOG_END)}",
        {0: ("verifies", "green"), 1: ("SOME REFUSED", "orange"), 2: ("ALL REFUSED", "red")},
        ("no data", "red"),
        "Are the signatures right? ALL REFUSED: no delivery of the last minutes was signed with a secret that we "
        "know: the secret at the vendor is another one than in tenants.<slug>.webhook_secrets. SOME REFUSED: "
        "strangers, or a rotation that one side has not followed.",
        "WhatsmsRejectsRising",
    ),
    answer(
        "Publishing",
        f"{role_trouble('relay')} + (((time() - min({chosen(m.RELAY_OLDEST)} > 0)) or vector(0)) > bool 60)",
        of_role("publishes", "LATE"),
        ("no relay", "blue"),
        "Do events reach Kafka? LATE: the oldest event that is not visible there waits for more than a minute: the "
        "broker is slow or away. HALTED: a person must decide, /readyz says why. NOBODY: no relay is active. `no "
        "relay`: none runs among the chosen instances, as is right without Kafka.",
        LATE,
    ),
    answer(
        "Applying",
        f"{role_trouble('consumer')} + (max({chosen(m.CONSUMER_LAG, topic='log')}) > bool 1000)",
        of_role("applies", "BEHIND"),
        ("no consumer", "red"),
        "Is the projection up to date? BEHIND: more than 1,000 events of the log are not applied: the read API shows "
        "the past. HALTED: a person must decide, /readyz says why. NOBODY: no consumer is active.",
        BEHIND,
    ),
    answer(
        "Repairing",
        f"2 * (max({chosen(m.BACKFILL_STATE)}) == bool 2) "
        f"+ ((time() - min({chosen(m.BACKFILL_LAST_SUCCESS)})) > bool 172800)",
        {0: ("repairs", "green"), 1: ("OVERDUE", "orange"), 2: ("STOPPED", "red"), 3: ("STOPPED", "red")},
        ("no key", "blue"),
        "Is what the webhooks missed found? OVERDUE: for some tenant no full reconcile finished within two days, or "
        "ever. STOPPED: the backfill gave up, most often over the API key; /readyz says why. `no key`: no tenant has "
        "an API key, so nothing is repaired.",
        "WhatsmsBackfillOverdue",
    ),
)  # fmt: skip

POSITIONS: Final = graph(
    "Log, Kafka and projection", "none",
    [
        latest(m.LOG_END).named("log"),
        latest(m.RELAY_THROUGH).named("Kafka"),
        latest(m.APPLIED_THROUGH).named("projection"),
    ],
    "Positions of the log's end, of what is visible in Kafka, and of what the projection shows. They rise together; "
    "one that stays behind is what hangs. Kafka's stays at 0 without Kafka.",
    BEHIND,
)  # fmt: skip
OLDEST: Final = graph(
    "How late Kafka is", "s", age(m.RELAY_OLDEST).named("oldest"),
    "Age of the oldest event that is not known to be visible there; nothing shown is right: none waits. Growing: the "
    "broker is slow or away, or the relay halted.",
    LATE,
)  # fmt: skip

FIRING: Final = f'ALERTS{{alertstate="firing",{PROCESS}}} or ALERTS{{alertstate="firing",job=~"$job",instance=""}}'
"""Alerts of the chosen processes, and those of the whole, which name none."""

ALERT: Final = ("alertname", "severity", "tenant", "role", "instance")
"""The columns of an alert."""

OVERVIEW: Final = Board(
    "overview",
    "overview",
    "Is it receiving, verifying, publishing, applying, repairing? The first line answers in words, the boards linked "
    "above show why.",
    (
        Row("What asks for a person", (
            table("Alerts that fire", Query(FIRING, "{{alertname}}"), ALERT,
                  "The alerts of deploy/prometheus/rules.yml that fire now. page wakes somebody, ticket waits for the "
                  "morning; each has a section of its name in the runbook.",
                  "When something is wrong"),
            states("Roles", latest(m.ROLE_STATE, "role", "instance"), ROLE,
                   "What each process does. HALTED waits for a person, and goes on by itself when the cause is gone: "
                   "the log line `role.halted` and /readyz say why. One active of each role is right, others stand by.",
                   "WhatsmsRoleHalted"),
            graph("Roles that stand still", "s", latest(m.ROLE_STALLED, "role", "instance"),
                  "For how long a role has failed or not moved although there is more to do; 0 is healthy. Over a "
                  "minute: /readyz says why.",
                  "WhatsmsRoleStalled"),
        )),
        Row("The way of an event", (
            graph("Deliveries by outcome", "reqps", rate(m.DELIVERIES, "outcome"),
                  "POSTs a second. Flat at zero by day: nobody sends. Anything but accepted and duplicate deserves a "
                  "look: the board of the door.",
                  "WhatsmsSilent"),
            POSITIONS,
            OLDEST,
        )),
        Row("Processes", (
            states("Answering Prometheus", of_python("up"), UP,
                   "DOWN: the process has ended, hangs, or cannot be reached on its private listener. While no "
                   "receiver runs, deliveries are lost to the vendor's retries.",
                   DOWN),
            graph("Processor", "percentunit", of_python("process_cpu_seconds_total", rated=True),
                  "Cores that each process uses. One for long: a role is at the end of what one process can do.",
                  BEHIND),
            graph("Memory", "bytes", of_python("process_resident_memory_bytes"),
                  "Resident memory. A process grows with its queues, which have limits, and then stays; growing for "
                  "days is a mistake of ours.",
                  DOWN),
            graph("Open files and sockets", "short", of_python("process_open_fds"),
                  "Steadily rising: connections are not closed. Near the limit of the process nobody can connect.",
                  TURNS),
            graph("Running since", "s", Query(f"time() - process_start_time_seconds{{{PROCESS}}}", "{{instance}}"),
                  "Falls to zero at each start. A start that nobody asked for: the last lines of its log say why.",
                  DOWN),
            states("Settings", latest(m.SETTINGS_REFUSED, "instance"), SETTINGS,
                   "REFUSED: the configuration file or a secret file has changed and has a mistake, so the settings "
                   "before it stay in force. `config check` says what to mend.",
                   "WhatsmsSettingsRefused"),
            states("Privacy key", latest(m.PRIVACY_KEY_DIFFERS, "instance"), KEYS,
                   "DIFFERS: the process has another privacy.key than others of the same log, or none, so what comes "
                   "late of people who were forgotten is kept there. `privacy keys` names every process.",
                   "WhatsmsPrivacyKeyDiffers"),
            table("Versions", latest(m.BUILD, "instance", "version"), ("instance", "version"),
                  "What each process runs. Two versions for long: an upgrade was not finished.",
                  "Upgrade it"),
        )),
    ),
    ANSWERS,
)  # fmt: skip
