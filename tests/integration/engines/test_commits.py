"""Committing, the same by delta-rs and by delta-spark: one suite, both implementations, each on a real engine."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from deltalake import DeltaTable

from contracts import settings
from etl import delta
from etl.commits import Commit, committer
from etl.commits.delta_rs import DeltaRs
from etl.commits.delta_spark import DeltaSpark
from etl.delta import State
from etl.publishing import PublishError
from tests.unit.etl.visits import VISITS, at, of, staged, visit

NAME = VISITS.qualified
DAY = of("2017-03-01", "2017-03-02")
NEXT = of("2017-03-02", "2017-03-03")


def append(*rows: dict[str, Any], run: str = "run", **other: Any) -> int:
    return committer().publish(VISITS, [staged(*rows)] if rows else [], State(run), base=delta.version_of(NAME), **other)


def ids(version: int | None = None) -> list[int]:
    found = committer().at(VISITS, delta.version_of(NAME) if version is None else version).toArrow()
    return sorted(found["visit_id"].to_pylist())


def row(number: int) -> dict[str, Any]:
    found = committer().at(VISITS, delta.version_of(NAME) or 0).filter(f"visit_id = {number}").toArrow().to_pylist()
    assert len(found) == 1
    return found[0] | {"visited_at": found[0]["visited_at"].astimezone(UTC)}


def test_each_engine_has_its_own_committer(engine: str) -> None:
    assert type(committer()) is {"sail": DeltaRs, "spark": DeltaSpark}[engine]


def test_a_sail_at_a_url_is_committed_to_by_delta_rs(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pysail.spark import SparkConnectServer

    sail = SparkConnectServer("127.0.0.1", 0)
    sail.start(background=True)
    try:
        monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{sail.listening_address[1]}")
        assert type(committer()) is DeltaRs
        assert append(visit(1)) == 1
        assert ids() == [1]
    finally:
        sail.stop()


# --- publish


def test_rows_come_back_as_they_were_staged(engine: str) -> None:
    hostile = visit(1, "1969-12-31 23:59:59.999999", paid=Decimal("9999999999.99"), weight=-0.0, visitor="Ä\n'\"", booked_date=date(9999, 12, 31))
    nothing = visit(2, paid=None, weight=None, visitor=None, is_member=None, booked_date=None)
    assert append(hostile, nothing) == 1
    for wanted in (hostile, nothing):
        assert row(wanted["visit_id"]) == wanted
    assert str(row(1)["weight"]) == "-0.0"


def test_days_are_replaced_and_the_others_stay(engine: str) -> None:
    append(visit(1), visit(2, "2017-03-02 00:00"), visit(3, "2017-03-01 23:59:59.999999"))
    assert append(visit(4), replace=[DAY]) == 2
    assert ids() == [2, 4]
    assert ids(1) == [1, 2, 3]


def test_days_are_emptied(engine: str) -> None:
    append(visit(1), visit(2, "2017-03-02"))
    append(replace=[DAY, NEXT])
    assert ids() == []


def test_days_apart_are_replaced_at_once(engine: str) -> None:
    append(visit(1, "2017-03-01"), visit(2, "2017-03-02"), visit(3, "2017-03-03"))
    append(visit(4, "2017-03-01"), replace=[DAY, of("2017-03-03", "2017-03-04")])
    assert ids() == [2, 4]


def test_all_rows_are_replaced(engine: str) -> None:
    append(visit(1), visit(2, "2018-01-01"))
    append(visit(3), whole=True)
    append(whole=True)
    assert (ids(2), ids()) == ([3], [])


def test_a_table_that_moved_is_refused_and_left_as_it_was(engine: str) -> None:
    append(visit(1))
    append(visit(2))
    for base in (None, 0, 1, 3):
        with pytest.raises(PublishError, match=rf"^silver\.visits: the table moved from version {base} to 2 while this run worked\. Nothing was written"):
            committer().publish(VISITS, [staged(visit(3))], State("late"), base=base)
    assert (ids(), delta.version_of(NAME)) == ([1, 2], 2)


def test_a_commit_carries_its_state(engine: str) -> None:
    state = State(
        "first", inputs={"bronze.visits": 3}, touched=(DAY,), horizon=date(2017, 3, 5), code="abc", account={"rows_in": 1}, ids={"bronze.visits": "x"}
    )
    committer().publish(VISITS, [staged(visit(1))], state, base=None)
    assert delta.last_state(delta.open_table(NAME)) == state


def test_the_schema_keeps_what_the_contract_says(engine: str) -> None:
    append(visit(1))
    append(visit(2), replace=[DAY])
    fields = {field.name: field for field in DeltaTable(str(settings.table_path(NAME))).schema().fields}
    assert (fields["visit_id"].nullable, fields["paid"].nullable) == (False, True)
    assert fields["paid"].metadata == {"comment": "What was paid [USD]", "pii": "none"}


def test_a_required_cell_that_is_empty_is_refused(engine: str) -> None:
    append(visit(1))
    with pytest.raises(Exception, match=r"(?i)null|failed validation"):
        committer().merge(VISITS, [staged(visit(1) | {"visited_at": None})], State("merge"), base=1)
    assert row(1)["visited_at"] == at("2017-03-01 10:00")


# --- append once


def test_what_was_appended_once_is_not_appended_again(engine: str) -> None:
    for rows in ([visit(1)], [visit(1)], [visit(2)]):
        version = committer().append_once(VISITS, [staged(*rows)], State("run"), "orders/2017-03-01")
    assert (version, ids()) == (1, [1])
    assert committer().append_once(VISITS, [staged(visit(3))], State("run"), "orders/2017-03-02") == 2
    assert ids() == [1, 3]


# --- merge and delete


def test_a_merge_puts_new_rows_in_the_place_of_old_ones(engine: str) -> None:
    append(visit(1), visit(2, visitor="bob"))
    assert committer().merge(VISITS, [staged(visit(2, "2017-03-09", visitor=None), visit(3))], State("merge"), base=1) == 2
    assert ids() == [1, 2, 3]
    assert (row(2)["visitor"], row(2)["visited_at"]) == (None, at("2017-03-09"))
    assert delta.last_state(delta.open_table(NAME)) == State("merge")


def test_a_key_that_comes_twice_is_refused(engine: str) -> None:
    append(visit(1))
    with pytest.raises(PublishError, match=r"^silver\.visits: the key visit_id = 2 comes 2 times among the rows to merge\. Nothing was written$"):
        committer().merge(VISITS, [staged(visit(2), visit(2))], State("merge"), base=1)
    assert ids() == [1]


def test_a_delete_leaves_what_its_condition_cannot_judge(engine: str) -> None:
    append(visit(1, visitor="ada"), visit(2, visitor="bob"), visit(3, visitor=None))
    assert committer().delete(VISITS, "visitor = 'bob'", State("erase"), base=1) == 2
    assert ids() == [1, 3]
    assert delta.last_state(delta.open_table(NAME)) == State("erase")


def test_a_delete_of_nothing_changes_nothing(engine: str) -> None:
    append(visit(1))
    committer().delete(VISITS, "visit_id = 9", State("erase"), base=1)
    assert ids() == [1]


# --- history, optimize, vacuum


def test_history_names_every_commit_newest_first(engine: str) -> None:
    began = datetime.now(UTC) - timedelta(seconds=2)
    append(visit(1), run="first")
    append(visit(2, "2017-03-02"), run="second", replace=[NEXT])
    found = committer().history(VISITS)
    assert [(one.version, one.run_id) for one in found] == [(2, "second"), (1, "first"), (0, "")]
    assert all(began <= one.at <= datetime.now(UTC) + timedelta(seconds=2) for one in found)


def test_a_table_that_was_never_made_has_no_history(engine: str) -> None:
    assert committer().history(VISITS) == []


def test_optimizing_changes_no_row_and_makes_nothing_out_of_date(engine: str) -> None:
    state = State("run", inputs={"bronze.visits": 1}, touched=(DAY,), code="abc")
    for number in (1, 2, 3):
        committer().publish(VISITS, [staged(visit(number))], state, base=delta.version_of(NAME))
    assert committer().optimize(VISITS) == 4
    assert ids() == [1, 2, 3]
    assert len(DeltaTable(str(settings.table_path(NAME))).file_uris()) == 1
    assert delta.changed_since(delta.open_table(NAME), 3) == ()
    last = delta.last_state(delta.open_table(NAME))
    assert (last.inputs, last.code, last.touched) == (state.inputs, state.code, ())


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
    state = State("run", inputs={"bronze.visits": 1}, touched=(DAY,), code="abc")
    for number in (1, 2):
        committer().publish(VISITS, [staged(visit(number))], state, base=delta.version_of(NAME), whole=True)
    assert committer().vacuum(VISITS, timedelta(0)) == 1
    last = delta.last_state(delta.open_table(NAME))
    assert (last.inputs, last.code, last.touched, last.run_id) == (state.inputs, state.code, (), "vacuum")
    assert delta.changed_since(delta.open_table(NAME), 2) == ()
    append(visit(3), replace=[DAY])
    assert ids() == [3]
    assert delta.rows_changed_since(delta.open_table(NAME), 2)


# --- one goes on with what the other wrote


def test_tables_of_either_are_continued_by_the_other(home: Any, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    append(visit(1), visit(2, "2017-03-02"), run="rs")
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    assert ids() == [1, 2]
    append(visit(3, "2017-03-02"), replace=[NEXT], run="spark")
    committer().merge(VISITS, [staged(visit(1, visitor="eve"), visit(4))], State("merge"), base=2)
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    assert ids() == [1, 3, 4]
    append(visit(5), replace=[DAY], run="rs again")
    committer().delete(VISITS, "visit_id = 3", State("erase"), base=4)
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    assert ids() == [5]
    runs = ["erase", "rs again", "merge", "spark", "rs", ""]
    assert [one.run_id for one in committer().history(VISITS)] == runs
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    assert [one.run_id for one in committer().history(VISITS)] == runs
    assert all(isinstance(one, Commit) for one in committer().history(VISITS))


@pytest.mark.parametrize("times", [4])
def test_commits_of_several_versions_count_up_by_one(engine: str, times: int) -> None:
    assert [append(visit(number)) for number in range(times)] == list(range(1, times + 1))
    assert ids() == list(range(times))
