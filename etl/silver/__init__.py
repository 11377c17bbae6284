"""Silver: pure PySpark from bronze DataFrames to the columns of a contract, by declaration (`select`) or by the
project's `clean(...)`.

A cleaned frame keeps bronze's audit columns; staging uses them to let the newest delivery of a key win, and drops them.
"""

PROVENANCE = ("_landed_date", "_loaded_at", "_file")
