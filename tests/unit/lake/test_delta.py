"""What a table says about its own past: the days that changed, or that it cannot tell."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from lake import delta, settings
from lake.delta import CommitMetadata, LakeError
from tests.unit.etl.visits import SCHEMA, VISITS, of, publish, visit

pytestmark = pytest.mark.usefixtures("home")
NAME = "silver.visits"
FIRST, SECOND, FOURTH = (of(f"2017-03-0{n}", f"2017-03-0{n + 1}") for n in (1, 2, 4))


def table() -> DeltaTable:
    return DeltaTable(str(settings.table_path(NAME)))


def foreign() -> None:
    """A commit that somebody else makes."""
    write_deltalake(str(settings.table_path(NAME)), pa.Table.from_pylist([visit(99)], schema=SCHEMA), mode="append")


def log(version: int) -> Path:
    return settings.table_path(NAME) / "_delta_log" / f"{version:020}.json"


# --- changed_since


def test_the_days_of_the_commits_after_a_version_are_those_that_changed() -> None:
    for days in (FIRST, SECOND, FOURTH):
        publish(visit(1, str(days.start)), days=(days,))
    assert delta.changed_since(table(), 1) == (SECOND, FOURTH)
    assert delta.changed_since(table(), 0) == (of("2017-03-01", "2017-03-03"), FOURTH)
    assert delta.changed_since(table(), 2) == (FOURTH,)


def test_nothing_changed_since_the_newest_version() -> None:
    publish(visit(1), days=(FIRST,))
    assert delta.changed_since(table(), 1) == ()


def test_a_foreign_commit_since_makes_it_unknown() -> None:
    publish(visit(1), days=(FIRST,))
    foreign()
    publish(visit(2), days=(SECOND,))
    assert delta.changed_since(table(), 1) is None
    assert delta.changed_since(table(), 2) == (SECOND,)


def test_a_version_that_the_table_does_not_have_makes_it_unknown() -> None:
    publish(visit(1), days=(FIRST,))
    assert delta.changed_since(table(), 5) is None


def test_a_log_that_was_cleaned_makes_it_unknown() -> None:
    for days in (FIRST, SECOND, FOURTH):
        publish(visit(1, str(days.start)), days=(days,))
    table().create_checkpoint()
    for version in (0, 1, 2):
        log(version).unlink()
    assert delta.changed_since(table(), 1) is None
    assert delta.changed_since(table(), 3) == ()


def test_optimizing_is_a_commit_that_is_not_ours() -> None:
    for number in (1, 2):
        publish(visit(number))
    table().optimize.compact()
    assert table().version() == 3
    assert delta.changed_since(table(), 2) is None


# --- states


def test_the_last_commit_is_unknown_after_a_foreign_one() -> None:
    publish(visit(1), state=CommitMetadata("ours"))
    foreign()
    assert delta.last_commit(table()) is None


@pytest.mark.parametrize("new", [True, False], ids=["no table", "no row yet"])
def test_a_new_table_has_no_state(new: bool) -> None:
    from lake import publishing

    assert delta.last_commit(None if new else publishing.open_or_create(VISITS)) is None


def test_the_states_come_newest_first_and_the_creation_is_none_of_them() -> None:
    for run in ("first", "second", "third"):
        publish(visit(1), state=CommitMetadata(run))
    assert [state and state.run_id for state in delta.commit_history(table())] == ["third", "second", "first"]
    assert [state and state.run_id for state in delta.commit_history(table(), since=1)] == ["third", "second"]


DAYS = st.dates().filter(lambda day: day.year < 9999)
STATES = st.builds(
    CommitMetadata,
    run_id=st.text(),
    inputs=st.dictionaries(st.text(), st.integers(0, 2**53)),
    changed_days=st.lists(DAYS.map(lambda day: of(str(day), str(day + timedelta(days=1)))), max_size=3).map(tuple),
    horizon=st.none() | DAYS,
    code=st.text(),
    account=st.dictionaries(st.text(), st.integers(0, 2**53)),
    ids=st.dictionaries(st.text(), st.text()),
)


@hypothesis(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(STATES)
def test_commit_metadata_round_trips_through_json(state: CommitMetadata) -> None:
    assert CommitMetadata.from_json(state.to_json()) == state
    assert json.loads(state.to_json())["format"] == settings.LAKE_FORMAT


def test_commits_of_earlier_releases_stay_readable() -> None:
    """The key of `changed_days` in the log is `touched`, as it was before the attribute was renamed."""
    text = (
        '{"run_id": "a", "inputs": {"bronze.visits": 1}, "touched": [["2017-03-01", "2017-03-03"]], "horizon": null,'
        ' "code": "c", "account": {}, "ids": {}, "format": 1}'
    )
    state = CommitMetadata("a", {"bronze.visits": 1}, (of("2017-03-01", "2017-03-03"),), code="c")
    assert CommitMetadata.from_json(text) == state
    assert json.loads(state.to_json()) == {**json.loads(text), "format": settings.LAKE_FORMAT}


# --- extent


def test_the_extent_runs_from_the_oldest_row_to_the_day_after_the_newest() -> None:
    publish(visit(1, "2017-03-05 10:00"), visit(2, "2017-03-01 23:59:59.999999"))
    publish(visit(3, "2017-03-09 00:00"))
    assert delta.extent(table(), VISITS) == of("2017-03-01", "2017-03-10")


def test_an_empty_table_has_no_extent() -> None:
    publish()
    assert delta.extent(table(), VISITS) is None


def test_a_file_without_statistics_on_its_time_is_refused() -> None:
    path = settings.table_path(NAME)
    path.mkdir(parents=True)
    write_deltalake(
        str(path),
        pa.Table.from_pylist([visit(1)], schema=SCHEMA),
        configuration={"delta.dataSkippingNumIndexedCols": "1"},
    )
    with pytest.raises(LakeError, match="a data file carries no statistics on its time column"):
        delta.extent(table(), VISITS)


def test_a_table_that_was_never_published_is_none() -> None:
    assert delta.open_table(NAME) is None
    assert delta.version_of(NAME) is None


# --- opened once


def test_a_log_that_has_not_moved_is_read_once() -> None:
    publish(visit(1))
    assert delta.open_table(NAME) is delta.open_table(NAME)
    assert delta.open_table(NAME, delta.version_of(NAME)) is delta.open_table(NAME)


def test_the_one_that_committed_is_what_the_next_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(visit(1))
    monkeypatch.setattr(delta, "_open", lambda *_: pytest.fail("the log was read again"))
    assert delta.open_table(NAME).version() == 1
    assert sum(file["num_records"] for file in delta.data_files(delta.open_table(NAME))) == 1


def test_one_that_somebody_else_has_overtaken_is_not_taken() -> None:
    publish(visit(1))
    committed = DeltaTable(str(settings.table_path(NAME)))
    foreign()
    delta.remember(NAME, committed)
    assert delta.version_of(NAME) == 2


def test_every_commit_is_seen_whoever_makes_it() -> None:
    publish(visit(1))
    before = delta.open_table(NAME)
    foreign()
    assert (before.version(), delta.version_of(NAME)) == (1, 2)
    publish(visit(2))
    assert delta.version_of(NAME) == 3


def test_an_older_version_is_not_the_newest() -> None:
    publish(visit(1))
    publish(visit(2))
    assert (delta.version_of(NAME), delta.open_table(NAME, 1).version(), delta.version_of(NAME)) == (2, 1, 2)


def test_a_table_that_was_removed_and_made_anew_is_another() -> None:
    publish(visit(1))
    before = delta.id_of(NAME)
    shutil.rmtree(settings.table_path(NAME))
    assert delta.id_of(NAME) == ""
    publish(visit(1))
    assert delta.id_of(NAME) not in ("", before)


def test_a_commit_that_tears_after_the_table_was_read_is_refused() -> None:
    publish(visit(1))
    assert delta.version_of(NAME) == 1
    log(2).touch()
    with pytest.raises(LakeError, match=r"the newest commit 0*2\.json is empty"):
        delta.open_table(NAME)


def test_publishing_leaves_what_a_reader_holds_as_it_is() -> None:
    publish(visit(1))
    kept = delta.open_table(NAME)
    publish(visit(2))
    assert kept.version() == 1
    assert sum(file["num_records"] for file in delta.data_files(kept)) == 1


# --- checkpoints


def days(number: int) -> None:
    """So many commits of a row each."""
    for n in range(number):
        publish(visit(n, f"2017-03-{n + 1:02} 10:00"))


def checkpoint() -> Path:
    return log(10).with_suffix(".checkpoint.parquet")


def read_anew() -> tuple[int, int]:
    """Version and rows, by a reader that has not seen the table yet."""
    delta._opened.clear()
    result = delta.open_table(NAME)
    return result.version(), sum(file["num_records"] for file in delta.data_files(result))


def test_each_tenth_commit_sums_up_the_log_and_says_the_same() -> None:
    days(11)
    with_it, states = read_anew(), delta.commit_history(table())
    files = sorted(map(str, delta.file_days(table(), VISITS)))
    assert [path.name for path in log(0).parent.glob("*.checkpoint.parquet")] == [checkpoint().name]
    checkpoint().unlink()
    log(0).with_name("_last_checkpoint").unlink()
    assert (with_it, states) == (read_anew(), delta.commit_history(table()))
    assert files == sorted(map(str, delta.file_days(table(), VISITS)))
    assert table().transaction_version("millrace") == 11


def test_a_checkpoint_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    days(9)

    def full(_: DeltaTable) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", full)
    days(1)
    assert read_anew() == (10, 10)


@pytest.mark.parametrize("size", [0, 100])
def test_a_torn_checkpoint_is_refused_with_a_remedy_that_helps(size: int) -> None:
    days(11)
    checkpoint().write_bytes(checkpoint().read_bytes()[:size])
    with pytest.raises(
        LakeError,
        match=(
            r"silver\.visits: .* remove _last_checkpoint and each \*\.checkpoint\.parquet from its _delta_log, then run"
            r" again"
        ),
    ):
        read_anew()
    for path in (checkpoint(), log(0).with_name("_last_checkpoint")):
        path.unlink()
    assert read_anew() == (11, 11)


def test_a_torn_commit_that_was_summed_up_is_taken_back_as_the_message_says() -> None:
    days(10)
    log(10).write_bytes(b"")
    with pytest.raises(LakeError, match=rf"\(\*{10:020}\*\), and _last_checkpoint if it is there"):
        read_anew()
    for path in [*log(0).parent.glob(f"*{10:020}*"), log(0).with_name("_last_checkpoint")]:
        path.unlink()
    assert read_anew() == (9, 9)
