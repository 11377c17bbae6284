"""The rows of a table of instants: what each event gives to each aggregation, at the event's own instant.

Windows are not computed here but where the features are read, for any instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from contracts.aggregations import Aggregates, Aggregation, Count, First, Latest
from contracts.columns import EVENT_TIMESTAMP
from contracts.expressions import portable
from contracts.model import Table
from etl.gold.aggregate import Prepare, prepared_events
from etl.gold.measures import AT


def rows(table: Table, declared: Aggregates, inputs: Mapping[str, DataFrame], prepare: Prepare | None) -> DataFrame:
    """One row per event with a key and a time, in the contract's columns. `inputs` and `prepare` as for
    `etl.gold.aggregate.features`.
    """
    timed = inputs[declared.events.qualified].withColumn(AT, F.col(declared.time_column).cast("timestamp"))
    events = prepared_events(declared, timed, inputs, prepare)
    needed = (declared.time_column, *(column.name for column in declared.key))
    events = events.filter(reduce(and_, (F.col(name).isNotNull() for name in needed)))
    own = [name for name in table.key if name in declared.events.column_names or name in needed]
    instant = F.col(AT).alias(EVENT_TIMESTAMP.name)
    values = [_value(declared, part).alias(column.name) for part, column in declared.measure_columns()]
    return events.select(*own, instant, *values).select(*table.column_names)


def _value(declared: Aggregates, part: Aggregation) -> Column:
    if isinstance(part, Count) or (isinstance(part, (Latest, First)) and not part.of):
        return _counts(part)
    value = F.expr(portable(part.of)).cast(declared.value_type(part).spark)
    return F.when(F.expr(portable(part.where)), value) if part.where else value


def _counts(part: Aggregation) -> Column:
    has_value = F.expr(portable(part.of)).isNotNull() if part.of else F.lit(True)
    return has_value & F.coalesce(F.expr(portable(part.where)), F.lit(False)) if part.where else has_value
