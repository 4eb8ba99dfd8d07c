"""Every exception this package raises on purpose; each says what happens next.

WhatsmsEventsError
├── ConfigError              exit status 2
├── SignatureError           401
├── InvalidEventError        parked
├── UnstorableError          parked, its bytes alone
├── TransientError           tried again
│   ├── StorageUnavailableError
│   │   └── StorageReplacedError
│   ├── OverloadedError
│   ├── BrokerUnavailableError
│   └── UpstreamUnavailableError    (an UpstreamError too)
│       └── UpstreamLimitedError
├── UpstreamError            WhatSMS's REST API did not do what it was asked
│   ├── UpstreamRefusedError        our request is wrong: the job stops
│   │   ├── UpstreamInvalidError
│   │   ├── UpstreamUnauthorizedError
│   │   ├── UpstreamForbiddenError
│   │   ├── UpstreamNotFoundError
│   │   │   └── UpstreamGoneError
│   │   └── UpstreamPagingError
│   └── UpstreamUncertainError      a POST that may have happened: a person or a read decides
├── FencedError              waits, then tries to take the role again
├── NotFoundError            exit status 1
└── IntegrityError           the role halts; a person decides
    ├── OffsetGoneError    the same, unless the reader can begin elsewhere
    └── RecordTooLargeError
"""


class WhatsmsEventsError(Exception):
    """The root: catch it to catch all of ours and nothing else."""


class ConfigError(WhatsmsEventsError):
    """The configuration cannot be used. The command ends with status 2 and prints each of `problems` on a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SignatureError(WhatsmsEventsError):
    """The sender did not prove that it knows a secret: 401. `reason` is one word of a closed set, for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class InvalidEventError(WhatsmsEventsError):
    """A delivery or event that cannot be decoded or applied. It is parked with its bytes and `reason`.

    `reason` is one word of a closed set and may be a label; `detail` names a place and a type, never a value of the
    body.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class UnstorableError(WhatsmsEventsError):
    """The database refused this row although it can be reached. The batch is tried in halves; the bad row is parked."""


class TransientError(WhatsmsEventsError):
    """It may work later. A loop backs off and tries again; a delivery gets 503 and Retry-After."""


class StorageUnavailableError(TransientError):
    """The database is away, locked or full. Nothing was acknowledged."""


class StorageReplacedError(StorageUnavailableError):
    """A SQLite file is not at its path any more, or somebody wrote over it. Nothing is written until it is back.

    A person must act, and the message says how; the service keeps looking, and uses a file that is moved back.
    """


class OverloadedError(TransientError):
    """A queue is full, a deadline has passed, or the process is stopping. Nothing was acknowledged."""


class BrokerUnavailableError(TransientError):
    """Kafka did not answer in time or refused for now. The relay closes hard and opens again."""


class UpstreamError(WhatsmsEventsError):
    """WhatSMS's REST API refused, failed, or did not answer.

    Its string is safe to log: method, path template, what went wrong. `text` is what the vendor said, up to 300
    printable characters: it may hold names, so it is for the caller only. `status` is None where nothing was answered.
    """

    def __init__(self, what: str, *, status: int | None = None, text: str = "") -> None:
        super().__init__(what)
        self.status = status
        self.text = text


class UpstreamRefusedError(UpstreamError):
    """Our request is wrong, and would be wrong again: 3xx, and 4xx but 408 and 429. The job stops."""


class UpstreamInvalidError(UpstreamRefusedError):
    """400: parameters are missing or wrong; in this family of products also "exists already". The job stops."""


class UpstreamUnauthorizedError(UpstreamRefusedError):
    """401: the API key is not valid (any more). The job stops until somebody sets another key."""


class UpstreamForbiddenError(UpstreamRefusedError):
    """403: the API key has no right to this. The job stops; a backfill only leaves out a single item."""


class UpstreamNotFoundError(UpstreamRefusedError):
    """404: there is no such thing (any more). A backfill looks again later, and then marks it as gone."""


class UpstreamGoneError(UpstreamNotFoundError):
    """410, or the redirect of a GET by id to another one of its kind: it was there, and is gone for good.

    A backfill marks it as gone at once. `merged_into` is the id that the vendor named in its place, None for none.
    """

    def __init__(self, what: str, *, status: int | None = None, text: str = "", merged_into: str | None = None) -> None:
        super().__init__(what, status=status, text=text)
        self.merged_into = merged_into


class UpstreamPagingError(UpstreamRefusedError):
    """Pages of a list do not go on as pages do. The walk stops; the message names the setting to look at."""


class UpstreamUnavailableError(UpstreamError, TransientError):
    """No usable answer: 5xx, 408, a timeout, a lost connection, or 2xx with something else than the JSON asked for.

    It was tried again already, as often as the client may. `retry_after_s` is how long the vendor asked to stay away,
    clamped; None where it did not say.
    """

    def __init__(
        self, what: str, *, status: int | None = None, text: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(what, status=status, text=text)
        self.retry_after_s = retry_after_s


class UpstreamLimitedError(UpstreamUnavailableError):
    """429: too many requests with this API key, ours and others' together. All requests of the key pause."""


class UpstreamUncertainError(UpstreamError):
    """A POST that may have happened: the answer is lost, unusable, or 5xx. It is never sent again by itself.

    Look whether it happened (read the ticket, the contact, the list) before you send it once more.
    """


class FencedError(WhatsmsEventsError):
    """Another process took this role over. This one leaves nothing behind, waits, and tries to take the role again."""


class NotFoundError(WhatsmsEventsError):
    """What a command was asked to see to is not there. It ends with status 1."""


class IntegrityError(WhatsmsEventsError):
    """Two places that must agree do not (a restored log, a recreated topic, a foreign record).

    The role halts: going on would turn the difference into loss. The message says what to look at; the role looks too,
    by reading alone, and goes on where the cause is gone.
    """


class OffsetGoneError(IntegrityError):
    """An offset is not in its partition (any more): removed by retention, or the topic was recreated."""


class RecordTooLargeError(IntegrityError):
    """A topic takes no batch of this size. The relay goes on when the topic's max.message.bytes has been raised."""

    def __init__(self, topic: str, size_bytes: int) -> None:
        super().__init__(f"{topic}: {size_bytes} bytes are larger than the topic's max.message.bytes: raise it")
        self.topic = topic
        self.size_bytes = size_bytes
