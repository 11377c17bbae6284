"""One row per key: how often keys occur, and which of several rows with the same key stays."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from contracts.model import Severity, Table
from etl.silver import PROVENANCE


def keys_are_unique(table: Table, rows: DataFrame, count: int) -> bool:
    """Whether these `count` rows have `count` keys. Distinct hashes prove distinct keys; a collision of hashes only
    costs time.
    """
    return bool(rows.select(F.xxhash64(*table.key)).distinct().count() == count)


def count_keys(table: Table, rows: DataFrame, count: int) -> int:
    """How many keys these `count` rows have, for the audit to compare with the rows. A row with a NULL in its key
    counts as a key of its own: it goes to quarantine.
    """
    hashed = F.when(F.expr(_key_is_complete(table)), F.xxhash64(*table.key))
    counts = (
        rows.select(hashed.alias("key"))
        .groupBy("key")
        .count()
        .agg(F.count("key").alias("keys"), F.sum(F.when(F.col("key").isNull(), F.col("count"))))
        .collect()[0]
    )
    keys = int(counts[0]) + int(counts[1] or 0)
    return keys if keys == count else int(rows.select(*table.key).distinct().count())


def deduplicate(table: Table, cleaned: DataFrame) -> DataFrame:
    """One row per key: rows that pass the critical checks come first, then the earliest day, then the newest delivery.

    Rows with a NULL in their key are all kept, for the audit to judge. The result has helper columns, too.
    """
    ranked = cleaned.withColumn("_passes", F.expr(passes_critical_checks(table)))
    days = [F.to_date(table.time_column)] if table.time_column else []
    order = [
        F.col("_passes").desc(),
        *days,
        *(F.col(name).desc() for name in PROVENANCE),
        *(F.col(name) for name in table.column_names),
    ]
    ranked = ranked.withColumn("_rank", F.row_number().over(Window.partitionBy(*table.key).orderBy(*order)))
    return ranked.filter(f"_rank = 1 OR NOT ({_key_is_complete(table)})")


def passes_critical_checks(table: Table) -> str:
    """A SQL condition: the row breaks no critical check of its own."""
    checks = [f"coalesce(({check.sql}), true)" for check in table.checks() if check.severity == Severity.CRITICAL]
    return " AND ".join(checks) or "true"


def _key_is_complete(table: Table) -> str:
    return " AND ".join(f"{name} IS NOT NULL" for name in table.key)
