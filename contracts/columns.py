"""Columns that the engine adds: AUDIT_, STREAM_ and CHANGE_COLUMNS to bronze tables, EVENT_TIMESTAMP to gold tables."""

from contracts.model import DATE, LONG, STRING, TIMESTAMP, Column, Rule

AUDIT_COLUMNS = (
    Column("_file", STRING, "Landed file the row came from, relative to the landing zone", required=True),
    Column(
        "_file_hash",
        STRING,
        "SHA-256 of the file's bytes: the same content is loaded once a day of landing",
        required=True,
    ),
    Column("_landed_date", DATE, "Folder date under which the file landed", required=True),
    Column("_loaded_at", TIMESTAMP, "When the row was loaded", required=True),
)
"""Added to each row on loading, so that it can be traced to its file.

`_loaded_at` grows with each load of the table, even if the clock is set back: it orders deliveries.
"""
STREAM_COLUMNS = (
    Column("_partition", LONG, "Partition of the topic, for a row that came as a message"),
    Column("_offset", LONG, "Offset in that partition", minimum=0),
)
"""Added to each row of a table with a topic. Topic, partition and offset name one message."""
CHANGE_COLUMNS = (
    Column(
        "_op", STRING, "What happened to the row: c, u, d or r, as Debezium writes it", allowed=("c", "u", "d", "r")
    ),
    Column("_lsn", LONG, "Position of the change in the log of a PostgreSQL database"),
    Column("_source_at", TIMESTAMP, "When the change was made in the database"),
)
"""Added to each row of a table with a topic in Debezium's format. They order the changes of a key; NULL for rows of
files.
"""
EVENT_TIMESTAMP = Column("event_timestamp", TIMESTAMP, "Midnight at which the row becomes knowable", required=True)
AT_MIDNIGHT = Rule(
    "at_midnight", "event_timestamp = CAST(event_timestamp AS DATE)", "event_timestamp is not a midnight"
)
"""Not by `date_trunc`: on Sail it takes three times as long, and was most of a gold table's audit."""
