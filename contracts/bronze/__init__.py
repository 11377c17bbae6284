"""Bronze: what landed, typed, append-only. One contract a source file, with the file's own column names, and the same four audit columns."""

from contracts.model import DATE, STRING, TIMESTAMP, Column

AUDIT_COLUMNS = (
    Column("_file", STRING, "Landed file the row came from, relative to the landing zone", required=True),
    Column("_file_hash", STRING, "SHA-256 of the file's bytes: the same content is loaded once a day of landing", required=True),
    Column("_landed_date", DATE, "Folder date under which the file landed", required=True),
    Column("_loaded_at", TIMESTAMP, "When the row was loaded", required=True),
)
"""Added to each row on loading, so that any row can be traced to its file.

`_loaded_at` is later than that of each earlier load of the table, even if the clock was set back: it tells which
delivery is the newest.
"""
