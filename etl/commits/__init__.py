"""Choose who commits to Delta tables: delta-rs in this process, or delta-spark on the engine.

delta-spark commits where the engine is a Spark with Delta and the lake is on a file system. delta-rs commits everywhere
else: Sail ignores some of Delta's write options, and in a bucket delta-spark checks that a version is free and then
writes it, so the second of two concurrent writers silently wins, where delta-rs makes the store refuse it. Each reads
and continues the tables of the other, with the same `CommitMetadata`. Callers hold the table's lock.
"""

from __future__ import annotations

from lake import settings, storage
from lake.commits import Committer


def committer() -> Committer:
    """The committer of the engine and the lake."""
    from etl.commits.delta_spark import DeltaSpark
    from lake.commits.delta_rs import DeltaRs

    by_spark = settings.engine() != "sail" and not storage.is_remote(settings.lake()) and _is_spark_with_delta()
    return DeltaSpark() if by_spark else DeltaRs()


def _is_spark_with_delta() -> bool:
    """A remote engine may be Sail, too; only Spark has this setting."""
    from etl.engine import session

    return "DeltaSparkSessionExtension" in (session().conf.get("spark.sql.extensions", "") or "")
