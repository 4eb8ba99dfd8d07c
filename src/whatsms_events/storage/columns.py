"""Types of columns that differ by database, and the conditions of partial indexes, which queries repeat."""

from sqlalchemy import BigInteger, Integer, Text, text

# Compared byte by byte on both databases, so that a prefix is a range of the index, and the index is its order.
Folded = Text().with_variant(Text(collation="C"), "postgresql")

# SQLite gives out row ids only for a column that is declared exactly INTEGER.
Position = BigInteger().with_variant(Integer(), "sqlite")

# A query uses a partial index only if it repeats the index's condition word for word, so both take it from here.
UNFINISHED = text("finished_at IS NULL")
DISCARDED = text("discarded_at IS NOT NULL")
WANTED = text("messages = 'wanted'")
UNSURE = text("(doubtful OR NOT known)")
OURS = text("(from_me IS TRUE)")  # in other words than in `UNDELIVERED`, or SQLite would take the larger index there
UNDELIVERED = text("(from_me AND ack < 3 AND failed_at IS NULL)")  # sent by us, not at the contact: see `domain.acks`
FAILED = text("(from_me AND failed_at IS NOT NULL AND (ack IS NULL OR ack < 3))")  # what arrived all the same did not
