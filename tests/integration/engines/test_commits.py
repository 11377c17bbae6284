"""Committing, the same by delta-rs and by delta-spark: one suite, both implementations, each on a real engine."""

from __future__ import annotations

from datetime import UTC, date, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import pytest
from deltalake import DeltaTable

from etl import engine as engines
from etl import table_reader
from etl.commits import committer
from etl.commits.delta_spark import DeltaSpark
from lake import delta, settings
from lake.commits.delta_rs import DeltaRs
from lake.delta import CommitMetadata
from lake.publishing import PublishError
from tests.landing import rows
from tests.unit.etl.visits import VISITS, of, staged, visit

NAME = VISITS.qualified
DAY = of("2017-03-01", "2017-03-02")
NEXT = of("2017-03-02", "2017-03-03")


def append(*new: dict[str, Any], run: str = "run", **other: Any) -> int:
    return committer().publish(
        VISITS, [staged(*new)] if new else [], CommitMetadata(run), base=delta.version_of(NAME), **other
    )


def ids(version: int | None = None) -> list[int]:
    """Read by DuckDB, which costs next to nothing."""
    return [found["visit_id"] for found in rows(NAME, "visit_id", version)]


def ids_by_engine() -> list[int]:
    return sorted(table_reader.read(NAME, delta.version_of(NAME)).toArrow()["visit_id"].to_pylist())


def row(number: int) -> dict[str, Any]:
    (found,) = table_reader.read(NAME, delta.version_of(NAME)).filter(f"visit_id = {number}").toArrow().to_pylist()
    return found | {"visited_at": found["visited_at"].astimezone(UTC)}


def runs() -> list[str]:
    """The run of each commit after the creation, newest first."""
    return [state.run_id for state in delta.commit_history(delta.open_table(NAME)) if state]


def test_each_engine_has_its_own_committer(engine: str) -> None:
    assert type(committer()) is {"sail": DeltaRs, "spark": DeltaSpark}[engine]


def test_a_sail_at_a_url_is_committed_to_by_delta_rs(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysail.spark import SparkConnectServer

    sail = SparkConnectServer("127.0.0.1", 0)
    sail.start(background=True)
    try:
        monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{sail.listening_address[1]}")
        assert type(committer()) is DeltaRs
        assert engines.describe() == ("sail", version("pysail"))
        assert append(visit(1)) == 1
        assert ids() == [1]
        table_reader.check_format()
    finally:
        sail.stop()


# --- publish


def test_rows_state_and_schema_come_back_as_they_were_given(engine: str) -> None:
    hostile = visit(
        1,
        "1969-12-31 23:59:59.999999",
        paid=Decimal("9999999999.99"),
        weight=-0.0,
        visitor="Ä\n'\"",
        booked_date=date(9999, 12, 31),
    )
    nothing = visit(2, paid=None, weight=None, visitor=None, is_member=None, booked_date=None)
    state = CommitMetadata(
        "first",
        inputs={"bronze.visits": 3},
        changed_days=(DAY,),
        horizon=date(2017, 3, 5),
        code="abc",
        account={"rows_in": 1},
        ids={"bronze.visits": "x"},
    )
    assert committer().publish(VISITS, [staged(hostile, nothing)], state, base=None) == 1
    for wanted in (hostile, nothing):
        assert row(wanted["visit_id"]) == wanted
    assert str(row(1)["weight"]) == "-0.0"
    assert delta.last_commit(delta.open_table(NAME)) == state
    append(visit(3), replace=[DAY])
    fields = {field.name: field for field in DeltaTable(str(settings.table_path(NAME))).schema().fields}
    assert (fields["visit_id"].nullable, fields["paid"].nullable) == (False, True)
    assert fields["paid"].metadata == {"comment": "What was paid [USD]", "pii": "none"}


def test_days_are_replaced_and_emptied_and_the_others_stay(engine: str) -> None:
    append(
        visit(1),
        visit(2, "2017-03-02 00:00"),
        visit(3, "2017-03-01 23:59:59.999999"),
        visit(4, "2017-03-03"),
        visit(5, "2017-03-04"),
    )
    assert append(visit(6), replace=[DAY, of("2017-03-03", "2017-03-04")]) == 2
    assert ids() == [2, 5, 6]
    assert append(replace=[DAY, NEXT]) == 3
    assert (ids_by_engine(), ids(2), ids(1)) == ([5], [2, 5, 6], [1, 2, 3, 4, 5])
    assert append(visit(7, "2018-01-01"), whole=True) == 4
    assert ids() == [7]
    assert append(whole=True) == 5
    assert (ids(), ids(4)) == ([], [7])


def test_a_table_that_moved_is_refused_and_left_as_it_was(engine: str) -> None:
    append(visit(1))
    append(visit(2))
    for base in (None, 0, 1, 3):
        with pytest.raises(
            PublishError,
            match=(
                rf"^silver\.visits: the table moved from version {base} to 2 while this run worked\. Nothing was"
                r" written"
            ),
        ):
            committer().publish(VISITS, [staged(visit(3))], CommitMetadata("late"), base=base)
    assert (ids(), delta.version_of(NAME)) == ([1, 2], 2)


def test_spark_refuses_an_empty_cell_in_a_required_column(
    home: Any, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs leaves that to the audit, and to whoever else writes to the table."""
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    append(visit(1))
    with pytest.raises(Exception, match=r"(?i)null"):
        append(visit(2) | {"visited_at": None})
    assert ids() == [1]


# --- optimize, vacuum


def test_optimizing_changes_no_row_and_makes_nothing_out_of_date(engine: str) -> None:
    state = CommitMetadata("run", inputs={"bronze.visits": 1}, changed_days=(DAY,), code="abc")
    for number in (1, 2, 3):
        committer().publish(VISITS, [staged(visit(number))], state, base=delta.version_of(NAME))
    assert committer().optimize(VISITS) == 4
    assert ids() == [1, 2, 3]
    assert len(DeltaTable(str(settings.table_path(NAME))).file_uris()) == 1
    assert delta.changed_since(delta.open_table(NAME), 3) == ()
    last = delta.last_commit(delta.open_table(NAME))
    assert (last.inputs, last.code, last.changed_days) == (state.inputs, state.code, ())


def test_vacuum_deletes_what_no_version_that_is_kept_needs(engine: str) -> None:
    append(visit(1))
    append(visit(2), whole=True)
    append(visit(3), whole=True)
    assert committer().vacuum(VISITS, timedelta(days=7)) == 0
    assert ids(1) == [1]
    assert committer().vacuum(VISITS, timedelta(0), keep=[2], delete=False) == 1
    assert (ids(1), delta.version_of(NAME)) == ([1], 3)
    assert committer().vacuum(VISITS, timedelta(0), keep=[2]) == 1
    assert (ids(2), ids()) == ([2], [3])
    assert not delta.rows_changed_since(delta.open_table(NAME), 3)
    assert committer().vacuum(VISITS, timedelta(0)) == 1
    assert committer().vacuum(VISITS, timedelta(0)) == 0
    assert ids() == [3]


def test_a_vacuum_makes_nothing_out_of_date(engine: str) -> None:
    state = CommitMetadata("run", inputs={"bronze.visits": 1}, changed_days=(DAY,), code="abc")
    for number in (1, 2):
        committer().publish(VISITS, [staged(visit(number))], state, base=delta.version_of(NAME), whole=True)
    assert committer().vacuum(VISITS, timedelta(0)) == 1
    last = delta.last_commit(delta.open_table(NAME))
    assert (last.inputs, last.code, last.changed_days, last.run_id) == (state.inputs, state.code, (), "vacuum")
    assert delta.changed_since(delta.open_table(NAME), 2) == ()
    append(visit(3), replace=[DAY])
    assert ids() == [3]
    assert delta.rows_changed_since(delta.open_table(NAME), 2)


# --- one goes on with what the other wrote


def test_tables_of_either_are_continued_by_the_other(
    home: Any, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    append(visit(1), visit(2, "2017-03-02"), run="rs")
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    assert ids_by_engine() == [1, 2]
    append(visit(3, "2017-03-02"), replace=[NEXT], run="spark")
    committer().publish(VISITS, [staged(visit(4))], CommitMetadata("spark again"), base=2)
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    assert ids_by_engine() == [1, 3, 4]
    append(visit(5), replace=[DAY], run="rs again")
    committer().publish(VISITS, [], CommitMetadata("emptied"), base=4, replace=[NEXT])
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    assert ids_by_engine() == [5]
    assert runs() == ["emptied", "rs again", "spark again", "spark", "rs"]
