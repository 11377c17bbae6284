"""Silver: pure PySpark from bronze DataFrames to the columns of a contract, by declaration (`select`) or by the
project's `clean(...)`.

A cleaned frame keeps bronze's audit columns. Staging needs them to keep the newest delivery of a key, then drops them.
"""

PROVENANCE = ("_landed_date", "_loaded_at", "_file")
