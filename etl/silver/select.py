"""Silver from a declaration: each column is a column of the bronze table, renamed and cast. A table that needs more has
a transform of its own.
"""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.model import DATE, DOUBLE, STRING, TIMESTAMP, Column, DecimalType, Table
from etl.silver import PROVENANCE


def clean(table: Table, source: Table, rows: DataFrame) -> DataFrame:
    """One row per row that came in, in the contract's columns and the audit columns of bronze. What cannot be cast is
    NULL, for the audit to find.
    """
    return rows.select(*(_cell(column, source.column(column.source_name)) for column in table.columns), *PROVENANCE)


def _cell(column: Column, source: Column) -> SparkColumn:
    value = F.col(source.name)
    if source.type == column.type:
        found = value
    elif source.type == DOUBLE and isinstance(column.type, DecimalType):
        found = exact(value, column.type)
    elif source.type == TIMESTAMP and column.type == DATE:
        found = F.to_date(value)
    elif column.type == STRING or (source.type, column.type) == (DATE, TIMESTAMP):
        found = value.cast(column.type.spark)
    else:
        found = value.try_cast(column.type.spark)
    return found.alias(column.name)


def exact(value: SparkColumn, kind: DecimalType) -> SparkColumn:
    """A double as a decimal, half away from zero; NULL where its digits before the point are too few.

    Whole units of the last digit first: casting 1.005 straight to two digits gives 1.01 on Spark, which goes by the
    printed number, and 1.00 on Sail, which goes by its double.
    """
    unit = Decimal(1).scaleb(-kind.scale)
    whole = F.round(value * 10**kind.scale).try_cast(f"decimal({min(kind.precision + 2, 38)},0)")
    return (whole * F.lit(unit)).try_cast(kind.spark)
