"""What a kill must not leave behind, and what must be the same after the rerun, is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from contracts import catalog
from lake.publishing import arrow_schema
from tests.chaos import state
from tests.chaos.state import HomeReader, HomeState, Release

NAME = "silver.showcases"


def home_state(rows: str, version: int, releases: int = 1, **changes: Any) -> HomeState:
    pinned = [Release(number + 1, f"2017-03-0{number + 1}", {NAME: rows}) for number in range(releases)]
    return replace(HomeState({NAME: rows}, {NAME: version}, {NAME: ["in 1"]}, pinned, {"set": "bytes"}), **changes)


BEFORE, CONTROL = home_state("a", 1), home_state("b", 2, releases=2)
CONTROL.releases[0] = BEFORE.releases[0]


@pytest.mark.parametrize("now", [BEFORE, CONTROL, replace(CONTROL, releases=BEFORE.releases)])
def test_a_home_as_it_was_or_as_it_becomes_is_right_after_a_kill(now: HomeState) -> None:
    assert state.kill_violations(BEFORE, CONTROL, now) == []


def test_a_set_that_was_lost_may_be_unreadable_until_it_is_put_back_and_no_other() -> None:
    now = replace(
        BEFORE, training={}, problems=["training set set cannot be read: TableNotFoundError: no files in log segment"]
    )
    assert state.kill_violations(BEFORE, CONTROL, now, dropped_table="set") == []
    assert state.kill_violations(BEFORE, CONTROL, now, dropped_table="other") != []
    assert state.kill_violations(BEFORE, CONTROL, now) != []
    assert state.differences(BEFORE, now) != []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {NAME: "half"}}, "half; before the operation a, in the control b"),
        ({"tables": {NAME: "b"}}, "changed from a to b without a commit"),
        ({"tables": {}}, f"{NAME}: gone"),
        ({"releases": []}, "release 1 is gone"),
        ({"releases": [*BEFORE.releases, Release(2, "2017-03-02", {NAME: "half"})]}, "none of the control's"),
        ({"training": {}}, "training set set: gone"),
        ({"training": {"set": "others"}}, "training set set: others"),
        ({"problems": ["unreadable"]}, "unreadable"),
    ],
)
def test_after_a_kill_this_is_wrong(changes: dict[str, Any], message: str) -> None:
    (problem,) = state.kill_violations(BEFORE, CONTROL, replace(BEFORE, **changes))
    assert message in problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {NAME: "a"}}, f"{NAME}: a, in the control b"),
        ({"accounts": {NAME: ["in 1", "in 2"]}}, "accounts of silver.showcases"),
        ({"training": {}}, "training set set: None"),
        ({"releases": BEFORE.releases}, "1 distinct releases, in the control 2"),
        ({"problems": ["unreadable"]}, "unreadable"),
    ],
)
def test_after_the_rerun_this_is_wrong(changes: dict[str, Any], message: str) -> None:
    (problem,) = state.differences(CONTROL, replace(CONTROL, **changes))
    assert message in problem


def test_a_release_that_repeats_the_one_before_and_versions_do_not_count() -> None:
    again = replace(CONTROL.releases[1], number=3)
    assert state.differences(CONTROL, replace(CONTROL, versions={NAME: 9}, releases=[*CONTROL.releases, again])) == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A published table with a release of its first version."""
    write(tmp_path, {"movie_id": 1, "venue_id": 1})
    release = {"number": 1, "horizon": "2017-03-02", "tables": {NAME: 0}}
    (tmp_path / "lake" / "_releases").mkdir()
    (tmp_path / "lake" / "_releases" / "1.json").write_text(json.dumps(release))
    return tmp_path


def write(home: Path, row: dict[str, Any], mode: str = "append") -> None:
    contract = catalog.table(NAME)
    filled = {column.name: row.get(column.name) for column in contract.columns}
    schema = pa.schema([field.with_nullable(True) for field in arrow_schema(contract)])
    write_deltalake(str(home / "lake" / "silver" / "showcases"), pa.Table.from_pylist([filled], schema), mode=mode)


def test_rows_are_compared_whatever_files_hold_them(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write(home, {"movie_id": 2, "venue_id": 1})
    write(other, {"movie_id": 2, "venue_id": 1})
    write(other, {"movie_id": 1, "venue_id": 1})
    DeltaTable(str(other / "lake" / "silver" / "showcases")).optimize.compact()
    first, second = HomeReader(home).read(), HomeReader(other).read()
    assert first.tables == second.tables
    write(other, {"movie_id": 1, "venue_id": 1})
    assert first.tables != HomeReader(other).read().tables


def test_a_pinned_version_whose_file_is_gone_is_a_problem(home: Path) -> None:
    reader = HomeReader(home)
    write(home, {"movie_id": 2}, mode="overwrite")
    assert reader.read().problems == []
    for uri in DeltaTable(str(home / "lake" / "silver" / "showcases"), version=0).file_uris():
        Path(uri.removeprefix("file://")).unlink()
    (problem,) = reader.read().problems
    assert problem.startswith("release 1 cannot be read: FileNotFoundError")
