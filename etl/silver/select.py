"""Silver by declaration: each column is a column of the bronze table, renamed and cast. Tables that need more have a
transform of their own.
"""

from __future__ import annotations

from decimal import Decimal

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.model import DATE, DOUBLE, STRING, TIMESTAMP, Column, DecimalType, Table
from etl.silver import PROVENANCE


def clean(table: Table, source: Table, rows: DataFrame) -> DataFrame:
    """One row per incoming row, in the contract's columns and bronze's audit columns. Values that cannot be cast are
    NULL, for the audit to find.
    """
    return rows.select(*(_cell(column, source.column(column.source_name)) for column in table.columns), *PROVENANCE)


def _cell(column: Column, source: Column) -> SparkColumn:
    value = F.col(source.name)
    if source.type == column.type:
        result = value
    elif source.type == DOUBLE and isinstance(column.type, DecimalType):
        result = exact(value, column.type)
    elif source.type == TIMESTAMP and column.type == DATE:
        result = F.to_date(value)
    elif column.type == STRING or (source.type, column.type) == (DATE, TIMESTAMP):
        result = value.cast(column.type.spark)
    else:
        result = value.try_cast(column.type.spark)
    return result.alias(column.name)


def exact(value: SparkColumn, decimal: DecimalType) -> SparkColumn:
    """A double as a decimal, rounded half away from zero; NULL where it does not fit.

    It is first rounded to whole units of the last digit: a direct cast of 1.005 to two digits gives 1.01 on Spark,
    which rounds the printed number, but 1.00 on Sail, which rounds the double.
    """
    unit = Decimal(1).scaleb(-decimal.scale)
    units = F.round(value * 10**decimal.scale).try_cast(f"decimal({min(decimal.precision + 2, 38)},0)")
    return (units * F.lit(unit)).try_cast(decimal.spark)
