"""Publishing on real Delta tables: what is replaced goes, what is not stays, and a table that moved is left alone."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from contracts.model import Table
from etl import table_reader
from lake import delta, publishing, settings
from lake.delta import CommitMetadata
from lake.publishing import PublishError
from tests import cinema
from tests.landing import rows
from tests.unit.etl.visits import SCHEMA, VISITS, at, of, publish, staged, visit
from tests.unit.lake.processes import at_once

pytestmark = pytest.mark.usefixtures("home")
NAME = "silver.visits"


def ids() -> list[int]:
    """The visits that readers see."""
    return [row["visit_id"] for row in rows(NAME, order="visit_id")]


def table() -> DeltaTable:
    return DeltaTable(str(settings.table_path(NAME)))


def photograph() -> dict[str, str]:
    root = settings.table_path(NAME)
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "_stage" not in path.parts
    }


# --- append, replace, whole


def test_the_first_publication_creates_the_table_and_holds_the_rows() -> None:
    assert publish(visit(1), visit(2)) == 1
    assert ids() == [1, 2]


def test_an_append_keeps_what_was_there() -> None:
    publish(visit(1))
    assert publish(visit(2), visit(3)) == 2
    assert ids() == [1, 2, 3]


def test_a_publication_without_rows_is_a_version_too() -> None:
    assert publish() == 1
    assert ids() == []


def test_a_staged_file_is_moved_not_copied() -> None:
    publish(visit(1))
    stage = settings.table_path(NAME) / "_stage"
    assert [*stage.iterdir()] == []


def test_a_day_that_fills_its_file_is_replaced_and_no_file_is_rewritten() -> None:
    publish(visit(1, "2017-03-01 00:00"), visit(2, "2017-03-01 23:59:59.999999"))
    publish(visit(3, "2017-03-02"))
    before = table().file_uris()
    publish(visit(9, "2017-03-01 12:00"), days=(of("2017-03-01", "2017-03-02"),))
    assert ids() == [3, 9]
    assert len({*before} & {*table().file_uris()}) == 1


def test_a_day_that_is_a_part_of_its_file_is_replaced_and_the_remainder_survives_in_every_cell() -> None:
    before = visit(
        1,
        "2017-02-28 23:59:59.999999",
        booked_date=None,
        paid=Decimal("-0.01"),
        weight=1e-300,
        is_member=None,
        visitor="Ŵ\n'",
    )
    after = visit(4, "2017-03-02 00:00", paid=None, weight=None, visitor=None)
    publish(before, visit(2, "2017-03-01 00:00"), visit(3, "2017-03-01 23:59:59.999999"), after)
    publish(visit(9, "2017-03-01 12:00"), days=(of("2017-03-01", "2017-03-02"),))
    assert rows(NAME, order="visit_id") == [before, after, visit(9, "2017-03-01 12:00")]


def test_days_apart_from_each_other_are_replaced_and_the_day_between_stays() -> None:
    publish(visit(1, "2017-03-01"), visit(2, "2017-03-02"), visit(3, "2017-03-03"))
    publish(visit(8, "2017-03-03"), days=(of("2017-03-01", "2017-03-02"), of("2017-03-03", "2017-03-04")))
    assert ids() == [2, 8]


def test_a_file_that_lies_in_two_intervals_that_touch_loses_all_its_rows() -> None:
    publish(visit(1, "2017-03-01"), visit(2, "2017-03-02"))
    publish(visit(8, "2017-03-02"), days=(of("2017-03-01", "2017-03-02"), of("2017-03-02", "2017-03-03")))
    assert ids() == [8]


def test_replacing_a_day_by_nothing_removes_its_rows() -> None:
    publish(visit(1, "2017-03-01"), visit(2, "2017-03-02"))
    publish(days=(of("2017-03-01", "2017-03-02"),))
    assert ids() == [2]


def test_a_day_without_rows_is_replaced_by_adding() -> None:
    publish(visit(1, "2017-03-01"))
    publish(visit(2, "2017-03-05"), days=(of("2017-03-05", "2017-03-06"),))
    assert ids() == [1, 2]


def test_a_whole_replacement_leaves_the_new_rows_only() -> None:
    publish(visit(1))
    publish(visit(2, "2018-01-01"))
    publish(visit(3), whole=True)
    assert ids() == [3]


def test_an_older_version_still_reads_as_it_was() -> None:
    first = publish(visit(1))
    publish(visit(2), whole=True)
    assert [row["visit_id"] for row in rows(NAME, version=first)] == [1]


def test_the_same_days_again_leave_the_same_rows() -> None:
    again = (visit(1), visit(2))
    for _ in range(3):
        publish(*again, days=(of("2017-03-01", "2017-03-02"),))
    assert rows(NAME, order="visit_id") == [*again]
    assert table().version() == 3


def test_a_table_with_a_date_for_its_time_is_replaced_by_day() -> None:
    by_day = replace(VISITS, time_column="booked_date")
    both = (visit(1, booked_date=date(2017, 2, 1)), visit(2, booked_date=date(2017, 2, 2)))
    base = publishing.publish(by_day, [staged(*both)], CommitMetadata("run"), base=None)
    publishing.publish(
        by_day,
        [staged(visit(9, booked_date=date(2017, 2, 1)))],
        CommitMetadata("run"),
        base=base,
        replace=[of("2017-02-01", "2017-02-02")],
    )
    assert ids() == [2, 9]


# --- refused


@pytest.mark.parametrize("base", [None, 0, 1, 3])
def test_a_table_that_moved_since_is_refused_and_left_as_it_was(base: int | None) -> None:
    for number in (1, 2):
        publish(visit(number))
    before = photograph()
    with pytest.raises(
        PublishError,
        match=rf"^silver\.visits: the table moved from version {base} to 2 while this run worked\. Nothing was written",
    ):
        publishing.publish(VISITS, [staged(visit(3))], CommitMetadata("late"), base=base, whole=True)
    assert photograph() == before
    assert ids() == [1, 2]


@pytest.mark.parametrize("whole", [True, False])
def test_a_writer_that_comes_in_between_wins_and_the_other_is_refused(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    publish(visit(1))
    commit = publishing._commit

    def overtaken(*arguments: Any) -> None:
        write_deltalake(
            str(settings.table_path(NAME)),
            pa.Table.from_pylist([visit(7)], schema=publishing.arrow_schema(VISITS)),
            mode="append",
        )
        commit(*arguments)

    monkeypatch.setattr(publishing, "_commit", overtaken)
    with pytest.raises(PublishError, match=r"^silver\.visits: another writer committed at the same time"):
        publish(visit(2), whole=whole)
    assert ids() == [1, 7]
    assert table().version() == 2


def test_a_kill_before_the_commit_leaves_the_rows_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(visit(1, "2017-03-01"), visit(2, "2017-03-02"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as torn:
        torn.setattr(publishing, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(visit(3), days=(of("2017-03-01", "2017-03-02"),))
    assert ids() == [1, 2]
    publish(visit(3), days=(of("2017-03-01", "2017-03-02"),))
    assert ids() == [2, 3]


def test_another_schema_is_refused_with_what_differs() -> None:
    write_deltalake(str(settings.table_path(NAME)), pa.table({"visit_id": [1], "weight": ["heavy"]}), mode="append")
    with pytest.raises(PublishError) as caught:
        publish(visit(1))
    for message in (
        "silver.visits: the published table and contracts/silver/visits.py differ in",
        "weight string (the contract says double)",
        (
            f"Remove {settings.table_path(NAME)}, then run again: the table is rebuilt as a whole from bronze.visits."
            " Former releases"
        ),
    ):
        assert message in str(caught.value)
    assert table().version() == 0


def test_the_lock_of_a_table_keeps_another_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "LOCK_SECONDS", 0.05)
    with publishing.locked(NAME):
        with publishing.locked("silver.other"):
            pass
        with (
            pytest.raises(PublishError, match=r"^silver\.visits: another process has held the lock for 0\.05 s"),
            publishing.locked(NAME),
        ):
            pass
    with publishing.locked(NAME):
        pass


# --- what the log says

FULL = CommitMetadata(
    "run-7",
    {"bronze.visits": 4},
    (of("2017-03-01", "2017-03-02"),),
    date(2017, 3, 5),
    "c0de",
    {"rows_in": 1},
    {"bronze.visits": "4f-ü"},
)


def test_the_state_of_a_commit_reads_back() -> None:
    publish(visit(1), state=FULL)
    assert delta.last_commit(table()) == FULL


def test_a_bare_state_reads_back() -> None:
    publish(visit(1), state=CommitMetadata("run-8"))
    assert delta.last_commit(table()) == CommitMetadata("run-8")


def test_every_commit_takes_the_fence_of_its_version() -> None:
    for version in (1, 2):
        assert publish(visit(1), state=FULL, whole=True) == version
        assert table().transaction_version(publishing.FENCE) == version


def test_a_table_that_moves_while_it_is_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock of ours holds a statement that a killed client left on a Spark."""
    publish(visit(1))
    late, original = staged(visit(2), name="late"), publishing.open_or_create

    def meanwhile(contract: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "open_or_create", original)
            publish(visit(3))
        return original(contract)

    monkeypatch.setattr(publishing, "open_or_create", meanwhile)
    with pytest.raises(
        PublishError, match=r"^silver\.visits: the table moved from version 1 to 2 while this run worked"
    ):
        publishing.publish(VISITS, [late], CommitMetadata("late"), base=1)
    assert ids() == [1, 3]


def test_the_statistics_in_the_log_are_those_of_the_data() -> None:
    hostile = [
        visit(-(2**63), "1970-01-01 00:00:00.000001", booked_date=None, weight=float("nan"), visitor=None),
        visit(
            2**63 - 1,
            "1969-12-31 23:59:59.999999",
            booked_date=date(1969, 12, 31),
            paid=Decimal("9999999999.99"),
            visitor="ÿ" * 100,
        ),
        visit(0, "2199-12-31 23:59:59.999999", booked_date=date(2017, 2, 28), paid=None, is_member=None),
    ]
    publishing.publish(VISITS, [staged(*hostile, group=1)], CommitMetadata("run"), base=None)
    (action,) = pa.table(table().get_add_actions(flatten=True)).to_pylist()
    for column in VISITS.columns:
        low, high, nulls, count = oracle(column.name)
        assert (action["num_records"], action[f"null_count.{column.name}"]) == (count, nulls)
        if column.name in ("visit_id", "visited_at", "booked_date"):
            assert (action[f"min.{column.name}"], action[f"max.{column.name}"]) == (low, high)
        else:
            assert action.get(f"min.{column.name}") is action.get(f"max.{column.name}") is None


def oracle(column: str) -> tuple[Any, Any, int, int]:
    """Minimum, maximum, NULLs and rows, counted by DuckDB in the data files."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone='UTC'")
        query = (
            f"SELECT min({column}) low, max({column}) high, count(*) - count({column}) nulls, count(*) n FROM"
            " read_parquet(?)"
        )
        (row,) = con.sql(query, params=[table().file_uris()]).to_arrow_table().to_pylist()
    return row["low"], row["high"], row["nulls"], row["n"]


def test_a_column_that_is_null_throughout_counts_its_nulls_and_has_no_bounds() -> None:
    publish(visit(1, booked_date=None), visit(2, booked_date=None))
    (action,) = pa.table(table().get_add_actions(flatten=True)).to_pylist()
    assert (action["null_count.booked_date"], action.get("min.booked_date"), action.get("max.booked_date")) == (
        2,
        None,
        None,
    )


def test_the_remainder_of_a_replaced_file_has_statistics_of_its_own() -> None:
    publish(visit(1, "2017-03-01"), visit(2, "2017-03-02 08:00"), visit(3, "2017-03-03 09:00"))
    publish(days=(of("2017-03-01", "2017-03-02"),))
    assert delta.extent(table(), VISITS) == of("2017-03-02", "2017-03-04")
    (action,) = pa.table(table().get_add_actions(flatten=True)).to_pylist()
    assert (action["num_records"], action["min.visited_at"], action["max.visited_at"]) == (
        2,
        at("2017-03-02 08:00"),
        at("2017-03-03 09:00"),
    )


@pytest.mark.parametrize("contract", [VISITS, *cinema.tables()], ids=lambda table: table.qualified)
def test_schema_and_comments_in_the_log_are_those_of_the_contract(contract: Table) -> None:
    publishing.open_or_create(contract)
    log = settings.table_path(contract.qualified) / "_delta_log" / f"{0:020}.json"
    (metadata,) = [
        action["metaData"] for line in log.read_text().splitlines() if "metaData" in (action := json.loads(line))
    ]
    spark = {"bigint": "long"}
    expected = [
        {
            "name": column.name,
            "type": spark.get(column.type.spark, column.type.spark),
            "nullable": not column.required,
            "metadata": {"comment": column.doc + (f" [{column.unit}]" if column.unit else ""), "pii": str(column.pii)},
        }
        for column in contract.columns
    ]
    assert json.loads(metadata["schemaString"])["fields"] == expected
    assert (metadata["name"], metadata["description"]) == (
        contract.qualified,
        f"{contract.doc}; {contract.grain}. Owner: {contract.owner}",
    )


def test_a_null_in_a_required_column_is_refused_by_the_table_itself() -> None:
    publish(visit(1))
    holed = pa.Table.from_pylist([visit(2, visitor=None) | {"visit_id": None}], schema=SCHEMA)
    with pytest.raises(DeltaError, match="1 rows failed validation check"):
        write_deltalake(str(settings.table_path(NAME)), holed, mode="append")
    assert ids() == [1]


# --- readers agree


def _by_duckdb() -> list[dict[str, Any]]:
    return rows(NAME, order="visit_id")


def _by_delta_rs() -> list[dict[str, Any]]:
    return table().to_pyarrow_table().sort_by("visit_id").to_pylist()


def _by_sail() -> list[dict[str, Any]]:
    return table_reader.read(NAME, table().version()).orderBy("visit_id").toArrow().to_pylist()


@pytest.mark.parametrize("read", [_by_duckdb, _by_delta_rs, _by_sail])
def test_every_reader_sees_the_same_rows(read: Callable) -> None:
    publish(
        visit(1, "2017-02-28 23:59:59.999999"),
        visit(2, "2017-03-01"),
        visit(3, "2017-03-02", booked_date=None, paid=None, weight=None, is_member=None, visitor=None),
    )
    publish(visit(9, "2017-03-01 00:00:00.000001", weight=0.1 + 0.2), days=(of("2017-03-01", "2017-03-02"),))
    result = [{**row, "visited_at": row["visited_at"].astimezone(UTC)} for row in read()]
    assert result == [
        visit(1, "2017-02-28 23:59:59.999999"),
        visit(3, "2017-03-02", booked_date=None, paid=None, weight=None, is_member=None, visitor=None),
        visit(9, "2017-03-01 00:00:00.000001", weight=0.1 + 0.2),
    ]


def test_sail_and_delta_rs_skip_no_file_that_holds_the_rows_asked_for() -> None:
    publish(visit(1, "2017-02-28 23:59:59.999999"))
    publish(visit(2, "2017-03-01 00:00:00"))
    requested = table_reader.read(NAME, table().version()).filter(
        publishing.days_sql(VISITS, [of("2017-03-01", "2017-03-02")])
    )
    assert [row.visit_id for row in requested.collect()] == [2]
    late = [("visited_at", "<", datetime(2017, 3, 1, tzinfo=UTC))]
    assert table().to_pyarrow_table(filters=late)["visit_id"].to_pylist() == [1]


# --- at the same time

WRITER = """
import sys
from lake import delta, publishing
from lake.delta import CommitMetadata
from tests.unit.etl.visits import VISITS, staged, visit
first, count, run = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for number in range(first, first + count):
    with publishing.locked("silver.visits"):
        base = delta.version_of("silver.visits")
        publishing.publish(VISITS, [staged(visit(number), name=run)], CommitMetadata(run), base=base)
"""


def test_two_processes_publish_each_commit_once_and_lose_no_row(home: Path) -> None:
    with at_once(WRITER, (0, 8, "one"), (100, 8, "other")):
        pass
    assert ids() == [*range(8), *range(100, 108)]
    assert table().version() == 16
    recorded = [state.run_id for state in delta.commit_history(table()) if state]
    assert (recorded.count("one"), recorded.count("other")) == (8, 8)
