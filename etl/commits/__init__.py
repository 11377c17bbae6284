"""Committing: how rows get into a Delta table, the same on every engine, done by delta-rs or by delta-spark.

`committer()` chooses: delta-spark where the engine is a Spark that has Delta, delta-rs everywhere else (Sail ignores
some of Delta's write options), and for a lake in a bucket, where delta-spark looks whether a version exists and then
writes it, so that of two writers at once the second wins unseen; delta-rs makes the store refuse it. Tables written by
one are read and continued by the other, and each commit carries the same `CommitMetadata`. Callers hold the table's
lock.
"""

from __future__ import annotations

from lake import settings, storage
from lake.commits import Committer


def committer() -> Committer:
    """The one that belongs to the engine."""
    from etl.commits.delta_spark import DeltaSpark
    from lake.commits.delta_rs import DeltaRs

    by_spark = settings.engine() != "sail" and not storage.is_remote(settings.lake()) and _is_spark_with_delta()
    return DeltaSpark() if by_spark else DeltaRs()


def _is_spark_with_delta() -> bool:
    """A remote engine may be Sail as well; only Spark knows this setting."""
    from etl.engine import session

    return "DeltaSparkSessionExtension" in (session().conf.get("spark.sql.extensions", "") or "")
