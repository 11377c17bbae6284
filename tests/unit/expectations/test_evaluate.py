"""`validate`, from the measurements of one pass, agrees with Great Expectations' own validation of the frame."""

import json
import logging
from dataclasses import replace
from decimal import Decimal as Number
from typing import Any

import great_expectations as gx
import pyarrow as pa
import pytest
from hypothesis import given

from contracts.model import Column, Table, decimal
from etl import engine
from expectations.audit import audit
from expectations.evaluate import Measurements, measure, row_level_sql, to_plain, validate
from expectations.suite import Facts, expectations_of
from lake.publishing import arrow_type
from tests.unit.expectations import test_audit as hand
from tests.unit.expectations.test_audit import (
    ACTIVITY,
    CAMPAIGNS,
    FEW_BATCHES,
    SHOWCASES,
    TICKETS,
    VOUCHERS,
    Row,
    frame,
    hostile,
    valid,
)


@pytest.fixture(scope="module")
def batches() -> Any:
    engine.session()  # or Great Expectations starts a Spark of its own
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return (
        context.data_sources.add_spark("engine", persist=False)
        .add_dataframe_asset("rows")
        .add_batch_definition_whole_dataframe("rows")
    )


def flagged(table: Table, rows: list[Row]) -> Any:
    from expectations.audit import _with_flags

    references = {
        reference.name: frame(
            pa.schema([(name, pa.int64()) for name in reference.to_columns]), hand.KNOWN[reference.name]
        )
        for reference in table.references
    }
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
    result = frame(schema, rows) if rows else frame(schema, [valid(table)]).filter("false")
    return _with_flags(table, result, references)


def verdicts(result: Any) -> list[tuple[Any, ...]]:
    """Each expectation of a result with what was found: everything that Great Expectations tells in its BASIC format
    but the samples of values.
    """
    actual = []
    for check in result.results:
        assert not (check.exception_info or {}).get("raised_exception"), check.exception_info
        numbers = {
            name: value for name, value in check.result.items() if name not in ("partial_unexpected_list", "details")
        }
        if "unexpected_count" in numbers:
            numbers["unexpected_count"] = (
                numbers["unexpected_count"] or 0
            )  # of no rows at all, Great Expectations counts None
        actual.append(
            (check.expectation_config.type, str(check.expectation_config.kwargs.get("column")), check.success, numbers)
        )
    return actual


def configuration(check: Any) -> dict[str, Any]:
    plain = check.expectation_config.to_json_dict()
    plain["kwargs"].pop("batch_id", None)
    return plain


def both(batches: Any, table: Table, rows: list[Row], facts: Facts) -> tuple[Any, Any]:
    result, pairs = flagged(table, rows), expectations_of(table, facts)
    suite = gx.ExpectationSuite(name=table.qualified, expectations=[expectation for expectation, _ in pairs])
    theirs = batches.get_batch(batch_parameters={"dataframe": result}).validate(suite, result_format="BASIC")
    return validate(table.qualified, pairs, measure(table, result)), theirs


@pytest.mark.parametrize(
    "table", [TICKETS, SHOWCASES, CAMPAIGNS, VOUCHERS, ACTIVITY], ids=lambda table: table.qualified
)
def test_the_verdict_on_hostile_rows_is_that_of_great_expectations(batches: Any, table: Table) -> None:
    @FEW_BATCHES
    @given(hostile(table))
    def check(rows: list[Row]) -> None:
        ours, theirs = both(batches, table, rows, Facts(len(rows) - 1, len(rows)))
        assert verdicts(ours) == verdicts(theirs)
        assert ours.statistics == theirs.statistics
        assert (ours.success, ours.suite_name) == (theirs.success, theirs.suite_name)
        assert to_plain(ours) == ours.to_json_dict()
        assert [configuration(result) for result in ours.results] == [
            configuration(result) for result in theirs.results
        ]

    check()


@pytest.mark.parametrize("table", [TICKETS, CAMPAIGNS, ACTIVITY], ids=lambda table: table.qualified)
@pytest.mark.parametrize("rows_in", [0, 1])
def test_the_verdict_on_no_rows_and_on_rows_of_nulls(batches: Any, table: Table, rows_in: int) -> None:
    for rows in ([], [dict.fromkeys(table.column_names)] * 2, [valid(table)]):
        ours, theirs = both(batches, table, rows, Facts(len(rows), rows_in))
        assert verdicts(ours) == verdicts(theirs)


def test_a_column_too_many_is_found_by_both(batches: Any) -> None:
    narrow = replace(CAMPAIGNS, columns=CAMPAIGNS.columns[:-1], rules=())
    results = flagged(CAMPAIGNS, [valid(CAMPAIGNS)])
    pairs = expectations_of(narrow, Facts(1, 1))
    suite = gx.ExpectationSuite(name="narrow", expectations=[expectation for expectation, _ in pairs])
    theirs = batches.get_batch(batch_parameters={"dataframe": results}).validate(suite, result_format="BASIC")
    ours = validate("narrow", pairs, measure(narrow, results))
    assert [result.success for result in ours.results] == [result.success for result in theirs.results]
    assert not ours.success


def test_the_plain_result_is_the_json_of_great_expectations_for_decimal_bounds_too() -> None:
    cost = Column("cost", decimal(12, 2), "Cost", minimum=Number("0.25"), maximum=Number("9.50"))
    table = replace(CAMPAIGNS, columns=(*CAMPAIGNS.columns, cost))
    checks = row_level_sql(table)
    measurements = Measurements(3, table.column_names, dict.fromkeys(checks, 1), dict.fromkeys(table.column_names, 2))
    result = validate("decimals", expectations_of(table, Facts(3, 3)), measurements)
    assert json.dumps(to_plain(result), sort_keys=True) == json.dumps(result.to_json_dict(), sort_keys=True)


def test_counts_stand_in_the_result_though_nothing_failed() -> None:
    verdict = hand.judged(CAMPAIGNS, [valid(CAMPAIGNS), valid(CAMPAIGNS) | {"campaign_type": None}])
    by_check = {
        name: check.result
        for (_, name), check in zip(expectations_of(CAMPAIGNS, Facts(None, 2)), verdict.result.results, strict=True)
    }
    assert (by_check["campaign_id_present"]["element_count"], by_check["campaign_id_present"]["unexpected_count"]) == (
        2,
        0,
    )
    assert by_check["campaign_type_allowed"]["missing_count"] == 1
    assert by_check["row_count"] == {"observed_value": 2}


def test_numbers_of_one_pass_are_those_of_a_count_by_hand() -> None:
    rows = [
        valid(CAMPAIGNS),
        valid(CAMPAIGNS) | {"campaign_id": 0},
        valid(CAMPAIGNS) | {"campaign_id": None, "campaign_type": "Type Z"},
    ]
    result = measure(CAMPAIGNS, flagged(CAMPAIGNS, rows))
    assert result == Measurements(
        rows=3,
        columns=(*CAMPAIGNS.column_names, *(f"is_{rule.name}" for rule in CAMPAIGNS.rules)),
        failed=dict.fromkeys(row_level_sql(CAMPAIGNS), 0)
        | {"campaign_id_present": 1, "campaign_id_range": 1, "campaign_type_allowed": 1},
        filled=dict.fromkeys(CAMPAIGNS.column_names, 3) | {"campaign_id": 2},
    )
    assert (
        audit(
            CAMPAIGNS,
            frame(pa.schema([(c.name, arrow_type(c.type)) for c in CAMPAIGNS.columns]), rows),
            {},
            Facts(3, 3),
        ).bad_rows
        == 2
    )
