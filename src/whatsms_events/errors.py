"""Every exception this package raises on purpose; each says what happens next.

WhatsmsEventsError
├── ConfigError              exit status 2
├── SignatureError           401
├── InvalidEventError        parked
├── UnstorableError          parked, its bytes alone
├── TransientError           tried again
│   ├── StorageUnavailableError
│   ├── OverloadedError
│   └── BrokerUnavailableError
├── FencedError              stands back, becomes a candidate again
├── NotFoundError            exit status 1
└── IntegrityError           the role stops; a person decides
    └── OffsetGoneError    the same, unless the reader can begin elsewhere
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
    """The database refused this row although it can be reached. The batch goes row by row; the bad one is parked."""


class TransientError(WhatsmsEventsError):
    """It may work later. A loop backs off and tries again; a delivery gets 503 and Retry-After."""


class StorageUnavailableError(TransientError):
    """The database is away, locked or full. Nothing was acknowledged."""


class OverloadedError(TransientError):
    """A queue is full, a deadline has passed, or the process is stopping. Nothing was acknowledged."""


class BrokerUnavailableError(TransientError):
    """Kafka did not answer in time or refused for now. The relay closes hard and opens again."""


class FencedError(WhatsmsEventsError):
    """Another process took this role over. This one leaves nothing behind, waits, and stands as a candidate again."""


class NotFoundError(WhatsmsEventsError):
    """What a command was asked to see to is not there. It ends with status 1."""


class IntegrityError(WhatsmsEventsError):
    """Two places that must agree do not (a restored log, a recreated topic, a foreign record).

    The role stops and stays stopped: going on would turn the difference into loss. The message says what to look at.
    """


class OffsetGoneError(IntegrityError):
    """An offset is not in its partition (any more): removed by retention, or the topic was recreated."""
