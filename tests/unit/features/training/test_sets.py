"""Training sets: what is kept, that it comes again byte for byte, and every way in which it cannot be made."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from feast import FeatureService, Field
from feast.feature_view_projection import FeatureViewProjection

from features import registry, training
from features.offline import as_of
from features.offline.labels import LabelError
from features.training import TrainingSetError, sets
from lake import manifest, release, settings, storage
from lake.manifest import Code, ManifestError
from lake.release import ReleaseError
from lake.storage import LockedError
from tests.unit.features.conftest import VIEWS, Lake, activity, at, definitions, pair

SERVICE = "suggestion_v1"


def labels(*rows: tuple[int | None, int, str], **more: list[Any]) -> pa.Table:
    """Guest, movie, instant."""
    guests, movies, times = zip(*rows, strict=True)
    return pa.table(
        {
            "guest_id": pa.array(guests, pa.int64()),
            "movie_id": movies,
            "event_timestamp": [at(time) for time in times],
            **more,
        }
    )


LABELS = labels(
    (1, 23, "2017-01-10"),
    (12, 3, "2017-01-02"),
    (1, 23, "2017-01-10"),
    (None, 3, "2017-01-09 12:00"),
    (99, 99, "2017-01-09"),
    bought=[True, False, None, True, False],
)


def test_table_and_manifest(cinema: Lake) -> None:
    made = training.create(LABELS, SERVICE, "first", seed=7)
    data = training.read("first")
    assert data.column_names == [
        "guest_id",
        "movie_id",
        "event_timestamp",
        "bought",
        "request_time",
        *(feature.name for feature in made.features),
    ]
    assert data.select(LABELS.column_names).to_pylist() == LABELS.to_pylist()
    assert data["paid_7d"].to_pylist() == [0.05, None, 0.05, None, None]
    assert data["visits_90d"].to_pylist() == [9, 7, 9, None, None]
    assert data["request_time"] == data["event_timestamp"]
    assert (made.rows, made.seed, made.release, made.service, made.knowledge_time) == (5, 7, 1, SERVICE, False)
    assert {feature.name: feature.nulls for feature in made.features} == {
        feature.name: data[feature.name].null_count for feature in made.features
    }
    assert [feature.ref for feature in made.features if feature.name.startswith("days_since")] == [
        "guest_recency:days_since_last_booking",
        "guest_movie_recency:days_since_last_visit",
    ]
    (pinned,) = made.releases
    assert pinned.tables == {f"gold.{name}": 0 for name in VIEWS}
    assert manifest.read("first") == made
    assert manifest.names() == ["first"]
    table = DeltaTable(str(manifest.table_path("first")))
    assert pa.table(table.to_pyarrow_table()).num_rows == 5


def test_it_equals_what_the_feast_sdk_gives(cinema: Lake) -> None:
    training.create(LABELS, SERVICE, "same")
    store = registry.open_store(1)
    frame = LABELS.append_column("request_time", LABELS["event_timestamp"]).to_pandas(types_mapper=pd.ArrowDtype)
    expected = store.get_historical_features(frame, store.get_feature_service(SERVICE)).to_arrow()
    data = training.read("same")
    assert data.to_pydict() == expected.select(data.column_names).to_pydict()


# --- the same bytes


def grown(lake: Lake) -> None:
    """Later rows, late rows and corrections, and a release of them."""
    lake.write(
        "guest_activity",
        [activity(1, "2017-01-02", "11.00"), activity(12, "2017-01-01", "5.00"), activity(1, "2017-03-01", "1.00")],
    )
    lake.write("guest_movie", [pair(12, 3, "2017-01-02", 70)])
    lake.release(*VIEWS, horizon="2017-03-01")


@pytest.fixture
def stored(cinema: Lake) -> bytes:
    """The parquet file of the training set `kept`, before the lake went on."""
    training.create(LABELS, SERVICE, "kept")
    grown(cinema)
    return file("kept").read_bytes()


def file(name: str) -> Path:
    return manifest.table_path(name) / sets.FILE


def test_rebuilt_after_later_runs_it_is_the_same(stored: bytes) -> None:
    done = training.rebuild("kept")
    assert (done.same_file, done.intact, done.restored) == (True, True, False)
    assert done.data == training.read("kept")
    assert hashlib.sha256(stored).hexdigest() == done.manifest.data.file
    other = training.create(LABELS, SERVICE, "other")
    assert other.release == 2
    assert other.data.digest != done.manifest.data.digest


@pytest.mark.parametrize("damage", ["table", "file", "altered"])
def test_a_lost_table_is_put_back_byte_for_byte(stored: bytes, damage: str) -> None:
    if damage == "table":
        shutil.rmtree(manifest.table_path("kept"))
    elif damage == "file":
        file("kept").unlink()
    else:
        DeltaTable(str(manifest.table_path("kept"))).delete("guest_id = 99")
    with pytest.raises(
        TrainingSetError, match=r"was lost or altered since\. Put it back: millrace training-set rebuild kept$"
    ):
        training.read("kept")
    checked = training.rebuild("kept", write=False)
    assert (checked.intact, checked.restored) == (False, False)
    assert training.rebuild("kept").restored
    assert file("kept").read_bytes() == stored
    assert training.read("kept") == checked.data


def test_rebuilding_needs_no_release_file(stored: bytes) -> None:
    for number in release.numbers():
        (release.folder() / f"{number}.json").unlink()
    assert training.rebuild("kept").same_file


def test_rebuilding_does_not_look_at_the_pin(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_RELEASE", "2")
    assert training.rebuild("kept").same_file


def test_data_frames_join_the_same_values(stored: bytes) -> None:
    with as_of.stand_in("pandas"):
        assert training.rebuild("kept").same_file


def test_another_pyarrow_may_write_another_file_and_not_other_values(
    stored: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets.pa, "__version__", "99.0.0")
    assert training.rebuild("kept").same_file is None


def test_values_that_come_out_different_are_refused_by_name(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.on_demand.SECONDS_A_DAY", 3600)
    features = "days_since_last_booking, days_since_last_visit, faded_visits"
    with pytest.raises(
        TrainingSetError, match=rf"cannot be rebuilt: {features} came out different.*made by version 0\.1\.0"
    ):
        training.rebuild("kept")
    assert file("kept").read_bytes() == stored


def test_labels_that_were_altered_are_refused(stored: bytes) -> None:
    pq.write_table(LABELS.slice(1), manifest.labels_path("kept"))
    with pytest.raises(
        TrainingSetError, match=r"^the labels of training set kept at .* were lost or altered\. Restore the file"
    ):
        training.rebuild("kept")
    manifest.labels_path("kept").unlink()
    with pytest.raises(TrainingSetError, match="were lost or altered"):
        training.rebuild("kept")


# --- definitions that changed


def redefined(monkeypatch: pytest.MonkeyPatch, name: str, alter: Callable[[Any], Any]) -> None:
    """Let the definitions have another object of that name."""
    result = [alter(definition) if definition.name == name else definition for definition in registry.definitions()]
    monkeypatch.setattr(
        registry, "definitions", lambda: [definition for definition in result if definition is not None]
    )


def short_lived(view: Any) -> Any:
    """The view, whose rows now hold for a day only."""
    changed = copy.copy(view)
    changed.ttl = timedelta(days=1)
    return changed


def test_a_feature_that_was_redefined_since_is_reported(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    redefined(monkeypatch, "guest_activity", short_lived)
    message = (
        r"^training set kept was made of features that are defined in another way now: view guest_activity\. To"
        r" rebuild it, .*; for the features as they are now, create another training set$"
    )
    with pytest.raises(training.DefinitionsChangedError, match=message):
        training.rebuild("kept")
    with pytest.raises(training.DefinitionsChangedError, match=message):
        training.check_leaks("kept")


def test_a_feature_that_was_renamed_since_is_reported(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    training.create(LABELS, "guest_value_v1", "kept")
    renamed = copy.copy(definitions.guest_profile)
    renamed.features = [
        Field(name="age_band" if feature.name == "age_band" else feature.name, dtype=feature.dtype)
        for feature in renamed.features
    ]
    renamed.projection = FeatureViewProjection.from_definition(renamed)
    redefined(monkeypatch, "guest_profile", lambda _: renamed)
    redefined(
        monkeypatch,
        "guest_value_v1",
        lambda service: FeatureService(name=service.name, features=[definitions.guest_activity, renamed]),
    )
    with pytest.raises(
        training.DefinitionsChangedError,
        match=r"defined in another way now: service guest_value_v1, view guest_profile\. To rebuild it",
    ):
        training.rebuild("kept")


def test_a_service_that_is_gone_is_reported(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    redefined(monkeypatch, SERVICE, lambda _: None)
    with pytest.raises(
        training.DefinitionsChangedError,
        match=(
            r"^training set kept was made of a feature service that is gone: there is no feature service"
            r" suggestion_v1"
        ),
    ):
        training.rebuild("kept")


def test_a_definition_that_the_service_does_not_use_may_change(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    training.create(LABELS, "guest_value_v1", "value")
    redefined(monkeypatch, "movie_demand", short_lived)
    redefined(monkeypatch, SERVICE, lambda _: None)
    assert training.rebuild("value").same_file


@pytest.mark.parametrize(
    ("commit", "of_project", "message"),
    [
        ("abc123+", None, r"check out the commit that made it \(git worktree add \.\./then abc123\)"),
        (None, None, r"take the code that made it \(version 0\.1\.0\)"),
        ("abc123", "def456+", r"check out the project's commit that made it \(git worktree add \.\./then def456\)"),
    ],
)
def test_the_remedy_names_the_commit(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch, commit: str | None, of_project: str | None, message: str
) -> None:
    monkeypatch.setattr(sets.code, "current", lambda: Code("0.1.0", commit, pa.__version__, of_project))
    training.create(LABELS, "guest_value_v1", "made")
    redefined(monkeypatch, "guest_profile", short_lived)
    with pytest.raises(training.DefinitionsChangedError, match=message):
        training.rebuild("made")


def test_the_remedy_for_a_project_elsewhere_without_git_is_its_day(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    training.create(LABELS, "guest_value_v1", "made")
    redefined(monkeypatch, "guest_profile", short_lived)
    monkeypatch.setattr(sets.settings, "CHECKOUT", tmp_path)
    day = manifest.read("made").created_at[:10]
    with pytest.raises(training.DefinitionsChangedError, match=f"take the project as it was on {day} and rebuild"):
        training.rebuild("made")


# --- versions that are gone


def test_a_version_whose_files_are_gone(stored: bytes) -> None:
    before = DeltaTable(str(settings.table_path("gold.guest_activity")), version=0)
    (gone,) = before.file_uris()
    Path(gone).unlink()
    with pytest.raises(
        training.VersionGoneError,
        match=(
            r"^training set kept needs version 0 of gold\.guest_activity, which is gone: 1 of its 1 data files were"
            r" deleted, though the log has no vacuum"
        ),
    ):
        training.rebuild("kept")


def test_a_version_that_a_vacuum_let_go(stored: bytes) -> None:
    DeltaTable(str(settings.table_path("gold.guest_activity"))).vacuum(
        0, enforce_retention_duration=False, dry_run=False
    )
    with pytest.raises(
        training.VersionGoneError,
        match=r"probably by the vacuum that made version \d of the table and was told to delete it\. It cannot be reb",
    ):
        training.rebuild("kept")
    with pytest.raises(training.VersionGoneError, match=r"^the leak check of training set kept needs version 0"):
        training.check_leaks("kept")
    assert training.read("kept").num_rows == 5


def test_a_table_that_was_built_anew_is_another(cinema: Lake) -> None:
    path = settings.table_path("gold.guest_profile")
    newest = release.read()
    release.write(
        newest.tables,
        newest.horizon,
        {name: str(DeltaTable(str(settings.table_path(name))).metadata().id) for name in newest.tables},
    )
    training.create(LABELS, SERVICE, "kept")
    shutil.rmtree(path)
    with pytest.raises(training.VersionGoneError, match=r"gold\.guest_profile, which is gone: there is no table at"):
        training.rebuild("kept")
    cinema.write("guest_profile", [])
    with pytest.raises(training.VersionGoneError, match="the table was removed and rebuilt since"):
        training.rebuild("kept")


def test_a_version_that_goes_while_it_is_joined_makes_no_training_set(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (needed,) = DeltaTable(str(settings.table_path("gold.guest_activity"))).file_uris()
    honest = sets._put

    def put(*arguments: Any) -> None:
        honest(*arguments)
        Path(needed).unlink()

    monkeypatch.setattr(sets, "_put", put)
    with pytest.raises(training.VersionGoneError, match=r"^training set late needs version 0 of gold\.guest_activity"):
        training.create(LABELS, SERVICE, "late")
    assert manifest.names() == []


def test_a_manifest_pins_nothing_of_a_table_that_was_built_anew(cinema: Lake) -> None:
    newest = release.read()
    release.write(newest.tables, newest.horizon, dict.fromkeys(newest.tables, "of then"))
    manifest.write(
        dataclasses.replace(
            training.create(LABELS, SERVICE, "kept", release=1), name="then", releases=(release.read(2),)
        )
    )
    assert manifest.pinned_versions("gold.guest_activity", "of then", ["kept"]) == [0]
    assert manifest.pinned_versions("gold.guest_activity", "of now", ["kept"]) == []


def test_a_vacuum_spares_what_a_manifest_names(cinema: Lake) -> None:
    training.create(LABELS, "guest_value_v1", "kept")
    grown(cinema)
    assert manifest.pinned_versions("gold.guest_activity", "any") == [0]
    assert manifest.pinned_versions("gold.movie_demand", "any") == []
    training.create(LABELS, "guest_value_v1", "later")
    assert manifest.pinned_versions("gold.guest_activity", "any") == [0, 1]
    assert manifest.pinned_versions("gold.guest_activity", "any", ["kept"]) == [1]


def test_no_vacuum_runs_while_a_manifest_is_written(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vacuum asks the manifests what they need, and holds the lock `release` until it is done."""
    written, right = [], manifest.write

    def write(made: manifest.Manifest) -> None:
        with pytest.raises(LockedError), storage.locked(settings.lake() / "_locks" / "release.lock", 0):
            pass
        written.append(made.name)
        right(made)

    monkeypatch.setattr(manifest, "write", write)
    training.create(LABELS, SERVICE, "kept")
    assert written == ["kept"]


# --- what cannot be a training set


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (LABELS.slice(0, 0), r"^there are no labels: the label set is empty"),
        (
            "SELECT guest_id, 3 AS movie_id, event_timestamp FROM gold.guest_activity WHERE false",
            r"^there are no labels",
        ),
        (
            LABELS.drop_columns(["event_timestamp"]),
            r"^entity_df has no column event_timestamp\. Got: guest_id, movie_id, bought",
        ),
        (LABELS.drop_columns(["movie_id"]), r"^entity_df has no column movie_id"),
        (
            LABELS.append_column("age_band", LABELS["bought"]),
            r"^labels already have age_band, which is also the name of a feature of suggestion_v1",
        ),
        (LABELS.append_column("Bought", LABELS["bought"]), r"more than one column bought"),
        (
            LABELS.append_column("tags", pa.array([["a"]] * 5)),
            r"^tags is list<.*> in the labels\. A training set keeps numbers",
        ),
        (
            LABELS.append_column("fine", pa.array([1] * 5, pa.timestamp("ns"))),
            r"^fine has a value that does not fit timestamp\[us, tz=UTC\]",
        ),
        (
            LABELS.append_column("large", pa.array([2**64 - 1] * 5, pa.uint64())),
            r"^large has a value that does not fit int64",
        ),
        (
            "SELECT 1 AS guest_id, 2 AS movie_id, TIMESTAMP '290000-01-01' AS event_timestamp",
            r"^1 of 1 labels have event_timestamp outside of the years",
        ),
        (
            "SELECT 1 AS guest_id, 2 AS movie_id, TIMESTAMP 'infinity' AS event_timestamp",
            r"outside of the years 1 to 9999\. Correct or drop such rows$",
        ),
        (
            pd.DataFrame([[1, 2, 0, 1]], columns=["guest_id", "movie_id", "bought", "bought"]),
            r"^entity_df has more than one column bought\. Rename",
        ),
        ("nowhere.csv", r"^there is no file nowhere\.csv with labels"),
        (
            "SELECT * FROM gold.guest_activty",
            r"^the labels' SQL cannot be run: Catalog Error.*It may read the tables of release 1: gold\.",
        ),
        ("SELECT * FROM shop.visits", r"schema \"shop\" does not exist\. It may read"),
        (
            "SELECT 1.0::DOUBLE AS guest_id, 2 AS movie_id, now() AS event_timestamp",
            (
                r"^guest_id is double in the labels' query, .*\. DOUBLE is no type of a key\. Convert it:"
                r" CAST\(guest_id AS BIGINT\)$"
            ),
        ),
        (
            LABELS.append_column("guest_id", LABELS["bought"]),
            r"^entity_df has more than one column guest_id\. Rename",
        ),
        ("SELECT 1; SELECT 2", r"^labels as SQL must be one SELECT"),
        ("CREATE TABLE a AS SELECT 1", r"^labels as SQL must be one SELECT"),
        ("COPY (SELECT 1) TO 'a.txt'", r"^labels as SQL must be one SELECT"),
        ("SELECT content FROM read_text('/etc/hostname')", r"^the labels' SQL cannot be run: Permission Error"),
        (5, r"^labels are int"),
    ],
)
def test_labels_that_cannot_be_joined(cinema: Lake, inputs: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        training.create(inputs, SERVICE, "bad")
    assert manifest.names() == []
    assert not manifest.table_path("bad").exists()


def test_a_csv_whose_quote_is_not_closed_loses_no_label(cinema: Lake, tmp_path: Path) -> None:
    path = tmp_path / "open.csv"
    path.write_text(
        'guest_id,movie_id,event_timestamp,note\n1,1,2017-03-02,fine\n2,1,2017-03-02,"open\n2,2,2017-03-02,z\n'
    )
    with pytest.raises(
        LabelError, match=r"open\.csv has a line break in column note of label 2: is a quote not closed\? Close it"
    ):
        training.create(path, SERVICE, "bad")


def test_labels_without_the_column_of_instants_are_refused(cinema: Lake) -> None:
    with pytest.raises(
        LabelError, match=r"^labels have no event_timestamp; they have guest_id, when\. Give each label"
    ):
        training.create(pa.table({"guest_id": [1], "when": [at("2017-03-01")]}), "guest_value_v1", "kept")


def test_labels_without_an_instant_are_counted(cinema: Lake) -> None:
    frame = LABELS.to_pandas().astype({"guest_id": "Int64"})
    frame.loc[[1, 3], "event_timestamp"] = None
    with pytest.raises(
        LabelError,
        match=r"^2 of 5 labels have no event_timestamp \(the first is row 2\)\. .* fill it in, or drop these rows$",
    ):
        training.create(frame, SERVICE, "bad")


def test_a_release_that_is_not_there(cinema: Lake) -> None:
    with pytest.raises(ReleaseError, match=r"^there is no release 7\. Known: 1 to 1$"):
        training.create(LABELS, SERVICE, "bad", release=7)


def test_a_service_that_is_not_there(cinema: Lake) -> None:
    with pytest.raises(
        training.ServiceError,
        match=r"^there is no feature service sugestion_v1\. Did you mean suggestion_v1\?$",
    ):
        training.create(LABELS, "sugestion_v1", "bad")
    with pytest.raises(training.ServiceError, match=r"There are: guest_value_v1, suggestion_v1$"):
        training.create(LABELS, "x", "bad")


@pytest.mark.parametrize("name", ["", "A", "a-b", "../a", "1a", "a/b", "a" * 101])
def test_a_name_that_is_none(lake: Lake, name: str) -> None:
    with pytest.raises(ManifestError, match="cannot be a training set's name"):
        training.create(LABELS, SERVICE, name)


def test_a_name_that_is_taken_is_left_alone(stored: bytes) -> None:
    with pytest.raises(TrainingSetError, match=r"^there is a training set kept already, and it is never altered"):
        training.create(LABELS.slice(1), SERVICE, "kept")
    assert file("kept").read_bytes() == stored
    assert training.rebuild("kept").same_file


def test_an_unknown_name_is_answered_with_the_nearest(stored: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^there is no training set kep\. Did you mean kept\?$"):
        training.read("kep")
    with pytest.raises(ManifestError, match=r"There are: kept$"):
        training.rebuild("zzz")


def test_a_manifest_of_a_newer_millrace_is_refused(stored: bytes) -> None:
    path = manifest.folder() / "kept.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ManifestError, match="has format 99, and this Millrace reads up to 1"):
        training.read("kept")


# --- labels in other shapes


def test_labels_as_sql_see_the_release(cinema: Lake) -> None:
    grown(cinema)
    sql = (
        "SELECT guest_id, count(*) AS seen, DATE '2017-01-31' AS event_timestamp FROM gold.guest_activity GROUP"
        " BY ALL ORDER BY guest_id"
    )
    training.create(sql, "guest_value_v1", "first", release=1)
    assert training.read("first").select(["guest_id", "seen", "paid_7d"]).to_pylist() == [
        {"guest_id": 1, "seen": 3, "paid_7d": 0.05},
        {"guest_id": 2, "seen": 1, "paid_7d": 7.77},
    ]
    assert training.rebuild("first").same_file


def test_labels_from_files(cinema: Lake, tmp_path: Path) -> None:
    lines = [
        "guest_id,movie_id,event_timestamp,bought",
        *(
            f"{row['guest_id'] or ''},{row['movie_id']},{row['event_timestamp']:%Y-%m-%d %H:%M:%S},{row['bought']}"
            for row in LABELS.to_pylist()
        ),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines).replace("None", ""))
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    digests = {
        training.create(inputs, SERVICE, f"by_{i}").data.digest
        for i, inputs in enumerate([LABELS, tmp_path / "labels.csv", str(tmp_path / "labels.parquet")])
    }
    assert len(digests) == 1


CSV_MISTAKES = [
    (
        "guest_id, movie_id,event_timestamp\n1,1,2017-03-02\n",
        (
            r"^labels\.csv has no column movie_id\. Got: 'guest_id', ' movie_id', .* Remove the blanks around"
            r" movie_id\."
        ),
    ),
    (
        "guest_id,movie_id,event_timestamp\n1.5,1,2017-03-02\n",
        r"^guest_id is double in labels\.csv, .* Write whole numbers as 7, not as 7\.0\. A CSV has no types",
    ),
    (
        "guest_id,movie_id,event_timestamp\nx,1,2017-03-02\n",
        r"^guest_id is string in labels\.csv, .* look like BIGINT, give the labels as \.parquet",
    ),
    (
        "guest_id,movie_id,event_timestamp\n1,1,02/03/2017\n",
        r"^event_timestamp is string in labels\.csv, not an instant\. Write ISO instants, such as 2017-03-01T00:00:00Z",
    ),
    (
        "guest_id,movie_id,event_timestamp,guest_id\n1,1,2017-03-02,1\n",
        r"^labels\.csv has more than one column guest_id\.",
    ),
]


@pytest.mark.parametrize(("content", "message"), CSV_MISTAKES)
def test_a_mistake_in_a_csv_is_reported_without_pandas(
    cinema: Lake, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(LabelError, match=message) as caught:
        training.create(tmp_path / "labels.csv", SERVICE, "bad")
    assert not {"entity_df", "pandas", "astype"} & {*re.findall(r"\w+", str(caught.value))}


def test_a_mistake_in_a_parquet_file_is_reported_with_the_type_to_write(cinema: Lake, tmp_path: Path) -> None:
    pq.write_table(
        LABELS.set_column(0, "guest_id", pc.cast(LABELS["guest_id"], pa.string())), tmp_path / "labels.PARQUET"
    )
    with pytest.raises(
        LabelError, match=r"^guest_id is string in labels\.PARQUET, .*\. Write the file again with it as BIGINT$"
    ):
        training.create(tmp_path / "labels.PARQUET", SERVICE, "bad")


@pytest.mark.parametrize("content", ["", "guest_id,movie_id,event_timestamp\n"])
def test_a_file_without_labels(cinema: Lake, tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(LabelError, match="there are no labels"):
        training.create(tmp_path / "labels.csv", SERVICE, "bad")


def test_a_file_that_is_no_parquet(cinema: Lake, tmp_path: Path) -> None:
    (tmp_path / "labels.parquet").write_text("no")
    with pytest.raises(LabelError, match=r"labels\.parquet cannot be read as parquet: .* Write the file again"):
        training.create(tmp_path / "labels.parquet", SERVICE, "bad")


def test_a_label_knows_when_it_is_asked_if_it_says_so(cinema: Lake) -> None:
    requested = LABELS.append_column("request_time", pa.array([at("2017-01-20")] * 5))
    training.create(requested, SERVICE, "asked")
    assert training.read("asked")["request_time"].to_pylist() == [at("2017-01-20")] * 5
    assert training.check_leaks("asked").to_dict()["found"]
