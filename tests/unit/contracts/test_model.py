"""A contract that contradicts itself fails at import, and its checks are SQL that says what it declares."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from contracts.model import (
    DATE,
    DOUBLE,
    LONG,
    MONEY,
    STRING,
    Column,
    ContractError,
    DecimalType,
    Layer,
    Reference,
    Rule,
    Severity,
    Table,
    Type,
    decimal,
)
from tests import cinema

KEY = Column("order_id", LONG, "Order", required=True)
AMOUNT = Column("amount", decimal(12, 2), "What was paid", minimum=0, maximum=100)


def orders(*columns: Column, **other: Any) -> Table:
    """A valid table, but for what the test gives."""
    return Table(
        layer=Layer.SILVER,
        name="orders",
        doc="Orders",
        grain="one row per order",
        owner="shop",
        freshness=timedelta(days=1),
        columns=columns or (KEY, AMOUNT),
        **other,
    )


# --- what is refused


def test_a_column_declared_twice() -> None:
    with pytest.raises(ContractError, match=r"^silver\.orders: columns declared twice: order_id$"):
        orders(KEY, AMOUNT, KEY)


@pytest.mark.parametrize(
    "other",
    [
        {"key": ("order_idd",)},
        {"time_column": "order_idd"},
        {"references": (Reference(("order_idd",), "silver.products", ("product_id",)),)},
    ],
    ids=["key", "time_column", "references"],
)
def test_a_name_that_is_no_column(other: dict[str, Any]) -> None:
    with pytest.raises(
        ContractError,
        match=r"^silver\.orders: key, time_column or references name columns that are not declared: order_idd$",
    ):
        orders(**other)


def test_a_column_without_a_meaning() -> None:
    with pytest.raises(ContractError, match="column amount: say in `doc` what a cell means"):
        Column("amount", LONG, "")


def test_a_minimum_above_the_maximum() -> None:
    with pytest.raises(ContractError, match="column amount: minimum 3 is above maximum 2"):
        Column("amount", LONG, "Paid", minimum=3, maximum=2)


@pytest.mark.parametrize(
    ("kind", "promise", "message"),
    [
        (STRING, {"minimum": 1}, "minimum and maximum are for numbers, and string is not one"),
        (DATE, {"maximum": 1}, "minimum and maximum are for numbers, and date is not one"),
        (LONG, {"allowed": ("1",)}, "allowed and pattern are for strings, and bigint is not one"),
        (MONEY, {"pattern": "[0-9]"}, r"allowed and pattern are for strings, and decimal\(12,2\) is not one"),
        (LONG, {"multiline": True}, "multiline is for strings, and bigint is not one"),
    ],
)
def test_a_promise_that_a_columns_type_cannot_keep(kind: Type, promise: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=f"^column amount: {message}$"):
        Column("amount", kind, "Paid", **promise)


@pytest.mark.parametrize(
    ("kind", "largest"), [(MONEY, 9_999_999_999.99), (decimal(3, 0), 999.0), (decimal(2, 2), 0.99)]
)
def test_the_largest_number_of_a_decimal(kind: DecimalType, largest: float) -> None:
    assert kind.largest == largest


def test_a_decimal_that_is_missing_may_be_one_that_does_not_fit() -> None:
    reasons = {check.name: check.reason for check in orders(replace(KEY), replace(AMOUNT, required=True)).checks()}
    assert reasons["amount_present"] == "amount is missing, or does not fit decimal(12,2)"
    assert reasons["order_id_present"] == "order_id is missing"


def test_bounds_with_a_point_are_compared_as_doubles() -> None:
    (check,) = orders(Column("amount", DOUBLE, "Paid", minimum=-9_999_999_999.99, maximum=1)).checks()
    assert check.sql == "amount >= CAST(-9999999999.99 AS DOUBLE) AND amount <= 1"
    kept = duckdb.sql(
        f"SELECT {check.sql} FROM (VALUES (-1e30), (-9999999999.99::DOUBLE), (1e0), (1e300)) AS t(amount)"
    ).fetchall()
    assert kept == [(False,), (True,), (True,), (False,)]


def test_a_minimum_that_is_the_maximum_is_one_value() -> None:
    assert Column("amount", LONG, "Paid", minimum=2, maximum=2).minimum == 2


@pytest.mark.parametrize("layer", [Layer.SILVER, Layer.GOLD])
def test_a_rule_of_a_silver_table_looks_at_no_other_row(layer: Layer) -> None:
    rule = Rule(
        "amounts_grow", "amount > lag(amount) over (ORDER BY order_id)", "an amount is not above the one before it"
    )
    if layer == Layer.SILVER:
        with pytest.raises(
            ContractError, match=r"^silver\.orders: the rules amounts_grow look at other rows by a window"
        ):
            replace(orders(KEY, AMOUNT), layer=layer, rules=(rule,))
    else:
        replace(orders(KEY, AMOUNT), layer=layer, rules=(rule,))


@pytest.mark.parametrize("name", ["Amount", "amount paid", "1st", "amount-usd", "", "größe"])
def test_a_name_that_does_not_follow_the_grammar(name: str) -> None:
    with pytest.raises(ContractError, match="a name is lower case letters, digits and underscores, such as ordered_at"):
        Column(name, LONG, "Something")


def test_a_misspelt_field_fails_at_import() -> None:
    with pytest.raises(TypeError, match="minimun"):
        Column("amount", LONG, "Paid", minimun=0)


def test_a_contract_cannot_be_changed_afterwards() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        AMOUNT.minimum = 5


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"silver\.orders has no column price; it has order_id, amount"):
        orders().column("price")


# --- checks


def test_what_a_column_declares_becomes_a_check_with_a_reason() -> None:
    place = Column("place", STRING, "Place", allowed=("bar", "o'clock"), severity=Severity.WARNING)
    code = Column("code", STRING, "Code", pattern="[A-Z]{2}|x")
    rule = Rule("cheap", "amount < 5 OR order_id = 1", "too dear")
    result = [
        (check.name, check.sql, check.reason, check.severity)
        for check in orders(KEY, AMOUNT, place, code, rules=(rule,)).checks()
    ]
    assert result == [
        ("order_id_present", "order_id IS NOT NULL", "order_id is missing", "critical"),
        ("amount_range", "amount >= 0 AND amount <= 100", "amount is not between 0 and 100", "critical"),
        (
            "place_allowed",
            "place IN ('bar', concat('o', chr(39), 'clock'))",
            "place is not one of bar, o'clock",
            "warning",
        ),
        ("code_pattern", "code RLIKE '^(?:[A-Z]{2}|x)$'", "code does not look like [A-Z]{2}|x", "critical"),
        ("cheap", "amount < 5 OR order_id = 1", "too dear", "critical"),
    ]


@pytest.mark.parametrize(
    ("bounds", "sql", "reason"),
    [
        ({"minimum": 0}, "n >= 0", "n is below 0"),
        ({"maximum": 9}, "n <= 9", "n is above 9"),
        ({"minimum": 1, "maximum": 2}, "n >= 1 AND n <= 2", "n is not between 1 and 2"),
    ],
)
def test_a_bound_of_0_is_a_bound_and_none_is_not(bounds: dict[str, int], sql: str, reason: str) -> None:
    (check,) = orders(Column("n", LONG, "Number", **bounds)).checks()
    assert (check.sql, check.reason) == (sql, reason)


def test_a_missing_cell_is_critical_even_where_the_range_is_a_warning() -> None:
    checks = orders(Column("n", LONG, "Number", required=True, minimum=0, severity=Severity.WARNING)).checks()
    assert [(check.name, check.severity) for check in checks] == [("n_present", "critical"), ("n_range", "warning")]


def test_a_reference_is_named_by_what_it_joins() -> None:
    reference = Reference(("coupon_upc", "campaign_id"), "silver.coupons", ("upc", "id"))
    assert reference.name == "coupon_upc_campaign_id_in_silver_coupons"
    assert reference.reason == "coupon_upc, campaign_id is not in silver.coupons"


@pytest.mark.parametrize("table", cinema.tables(), ids=lambda table: table.qualified)
def test_every_check_is_sql_that_duckdb_understands_and_keeps_null(table: Table) -> None:
    empty = ", ".join(f"CAST(NULL AS {column.type.spark}) AS {column.name}" for column in table.columns)
    needs_a_value = {f"{column.name}_present" for column in table.columns if column.required} | {
        rule.name for rule in table.rules if "IS NOT NULL" in rule.sql
    }
    with duckdb.connect() as con:
        for check in table.checks():
            sql = check.sql.replace(" RLIKE ", " SIMILAR TO ")  # the one word that is Spark's alone
            ((broken,),) = con.execute(f"SELECT ({sql}) IS FALSE FROM (SELECT {empty})").fetchall()
            assert broken == (check.name in needs_a_value), check.name


@pytest.mark.parametrize("table", cinema.tables(), ids=lambda table: table.qualified)
def test_no_two_checks_of_a_table_share_a_name(table: Table) -> None:
    names = [check.name for check in (*table.checks(), *table.references)]
    assert len(names) == len({*names})
