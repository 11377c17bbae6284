"""The as-of join in Spark, for feature rows that need a cluster; over any Spark Connect session, Sail's too.

Feature rows and labels become one frame, and a window carries the newest feature row of each key down to the labels
after it. So every row is shuffled and sorted once, where an inequality join would pair each label with its key's whole
history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast import FeatureView

from features import queries
from features.source import GoldTable
from lake import delta, settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MAX_MICROSECONDS = 2**63 - 1
"""Microseconds; no two instants are further apart."""


class SparkJoinError(RuntimeError):
    """No Spark session can be opened as configured; the message says what to set."""


def opener(name: str | None) -> Callable[[], SparkSession]:
    """The function of that dotted name, which opens a Spark Connect session or returns the one that is open."""
    if not name:
        raise SparkJoinError(
            "spark was selected to join, but nothing says what opens its session. Set `session: etl.engine.session`"
            " under offline_store in feature_store.yaml, or name a function of your own there that returns a Spark"
            " Connect session"
        )
    module, _, function = name.rpartition(".")
    try:
        session: Callable[[], SparkSession] = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SparkJoinError(
            f"the session of the offline store is {name!r}, and that is no function to import: {error}. Name one such"
            " as etl.engine.session"
        ) from error
    return session


def read(session: SparkSession, qualified: str, version: int) -> DataFrame:
    """A table of the lake at that version, as the engine reads it."""
    delta.checkpoint_older(qualified, version)  # the session may be one of Sail
    return session.read.format("delta").option("versionAsOf", version).load(str(settings.table_path(qualified)))


def as_of(
    session: SparkSession,
    history: DataFrame,
    labels: pa.Table,
    source: GoldTable,
    view: FeatureView,
    features: Sequence[str],
) -> pa.Table:
    """`__row` of each label and the features `__f0`, ... in the table's types, in any order; NULL where no row is
    within the ttl.

    NULL matches nothing, neither as a key nor as an instant. Among rows with the same key and instant, the one created
    last wins; a row without a creation time is older than all others.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    names = queries.label_keys(view)
    keys = [f"__k{i}" for i in range(len(names))]
    requests = session.createDataFrame(
        labels.select([*names, "__at", "__row"]).rename_columns([*keys, "__at", "__row"])
    )
    candidates = _candidates(history, requests, source, view, features)
    if keys:
        candidates = candidates.join(requests.select(*keys), keys, "left_semi")
    nothing = F.lit(None).cast(candidates.schema["__known"].dataType)
    both = candidates.withColumn("__row", _null_bigint()).unionByName(
        requests.withColumn("__created", _null_bigint()).withColumn("__known", nothing)
    )
    newest = F.last("__known", ignorenulls=True).over(
        Window.partitionBy(*keys)
        .orderBy("__at", F.col("__row").isNotNull(), F.col("__created").asc_nulls_first())
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    joined = both.withColumn("__known", newest).where("__row IS NOT NULL")
    is_alive = F.col("__at") - F.col("__known.__at") <= _microseconds(view.ttl)
    return joined.select(
        "__row", *(F.when(is_alive, F.col(f"__known.__f{i}")).alias(f"__f{i}") for i in range(len(features)))
    ).toArrow()


def _candidates(
    history: DataFrame, requests: DataFrame, source: GoldTable, view: FeatureView, features: Sequence[str]
) -> DataFrame:
    """Feature rows: keys in the types of the labels, `__at` and `__created` in microseconds, and the carried values in
    `__known`.
    """
    from pyspark.sql import functions as F

    keys = [
        history[source.column(key.name)].cast(requests.schema[f"__k{i}"].dataType).alias(f"__k{i}")
        for i, key in enumerate(view.entity_columns)
    ]
    at = F.unix_micros(history[source.event_column])
    created: Any = F.unix_micros(history[source.created_column]) if source.created_column else _null_bigint()
    values = [history[source.column(name)].alias(f"__f{i}") for i, name in enumerate(features)]
    return history.select(
        *keys, at.alias("__at"), created.alias("__created"), F.struct(at.alias("__at"), *values).alias("__known")
    ).where("__at IS NOT NULL")


def _null_bigint() -> Any:
    from pyspark.sql import functions as F

    return F.lit(None).cast("bigint")


def _microseconds(ttl: timedelta | None) -> int:
    return min(ttl // timedelta(microseconds=1), MAX_MICROSECONDS) if ttl else MAX_MICROSECONDS
