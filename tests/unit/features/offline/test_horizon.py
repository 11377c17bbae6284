"""Labels after a release's horizon: refused with counts and remedies, or joined where that is allowed, and counted."""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import registry, training
from features.offline.labels import BeyondHorizonError, BeyondHorizonWarning
from features.training import sets
from lake import manifest, settings
from millrace import cli
from tests.unit.features.conftest import VIEWS, Lake, activity, at

SERVICE = "guest_value_v1"
REFS = ["guest_activity:paid_7d"]
HORIZON = at("2017-02-01")
"""Of the release in the fixture `cinema`."""
MICROSECOND = timedelta(microseconds=1)
LATE = [HORIZON + MICROSECOND, at("2030-01-01")]
LABELS = pa.table({"guest_id": [1, 1, 1, 2], "event_timestamp": [HORIZON - MICROSECOND, HORIZON, *LATE]})
SQL = "SELECT 1 AS guest_id, TIMESTAMPTZ '2017-01-30' + INTERVAL (i) DAY AS event_timestamp FROM range(5) r(i)"
REFUSED = (
    r"^2 of 4 labels lie after 2017-02-01 00:00 UTC, the horizon of release 1, .*; the latest is 2030-01-01 00:00:00\."
    r" .* Drop .*, or run .*, or allow"
)


@pytest.fixture
def store(cinema: Lake) -> Any:
    registry.apply()
    return registry.open_store()


def test_the_sdk_refuses_labels_after_the_horizon_at_the_call(store: Any) -> None:
    with pytest.raises(BeyondHorizonError, match=REFUSED):
        store.get_historical_features(LABELS.to_pandas(), REFS)


def test_the_horizon_itself_is_known(store: Any) -> None:
    """The row of the horizon's midnight counts all days before it."""
    result = store.get_historical_features(LABELS.slice(0, 2).to_pandas(), REFS).to_df()
    assert result.paid_7d.to_list() == [0.05, 0.05]


@pytest.mark.parametrize(("unit", "zone"), [("s", None), ("us", "Asia/Tokyo"), ("ns", "UTC")])
def test_any_unit_and_time_zone_is_compared_as_an_instant(store: Any, unit: str, zone: str | None) -> None:
    instants = (
        pd.Series([HORIZON, HORIZON + timedelta(seconds=1)])
        .dt.tz_convert(zone)
        .astype(f"datetime64[{unit}{', ' + zone if zone else ''}]")
    )
    frame = pd.DataFrame({"guest_id": 1, "event_timestamp": instants})
    assert len(store.get_historical_features(frame[:1], REFS).to_df()) == 1
    with pytest.raises(BeyondHorizonError, match=r"^1 of 2 labels"):
        store.get_historical_features(frame, REFS)


@pytest.mark.parametrize(
    "allow",
    [lambda store, _: setattr(store.config.offline_store, "beyond_horizon", "allow"), lambda _, env: env("allow")],
)
def test_where_they_are_allowed_they_are_joined_counted_and_reported(
    store: Any, monkeypatch: pytest.MonkeyPatch, allow: Any
) -> None:
    allow(store, lambda value: monkeypatch.setenv("MILLRACE_BEYOND_HORIZON", value))
    job = store.get_historical_features(LABELS.to_pandas(), REFS)
    with pytest.warns(
        BeyondHorizonWarning, match=r"^2 of 4 labels lie after 2017-02-01 .*: their features are those of the horizon$"
    ):
        assert job.to_arrow().num_rows == 4
    assert job.beyond_horizon == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = store.get_historical_features(LABELS.slice(0, 2).to_pandas(), REFS)
        assert (job.to_arrow().num_rows, job.beyond_horizon) == (2, 0)


def test_a_query_is_refused_with_all_of_its_counts(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Piece by piece, too: the second piece has the first late label, and no file is left."""
    with pytest.raises(BeyondHorizonError, match=r"^2 of 5 labels lie .*the latest is 2017-02-03 00:00:00\."):
        store.get_historical_features(SQL, REFS).to_df()
    with pytest.raises(BeyondHorizonError, match=r"^2 of 5 labels"):
        store.get_historical_features(SQL, REFS).to_parquet(str(tmp_path / "set.parquet"), rows=2)
    assert not (tmp_path / "set.parquet").exists()
    monkeypatch.setenv("MILLRACE_BEYOND_HORIZON", "allow")
    job = store.get_historical_features(SQL, REFS)
    with pytest.warns(BeyondHorizonWarning, match="^2 of 5 labels"):
        job.to_parquet(str(tmp_path / "set.parquet"), rows=2)
    assert job.beyond_horizon == 2
    assert pq.read_table(tmp_path / "set.parquet").num_rows == 5


def test_a_setting_that_is_none_is_refused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_BEYOND_HORIZON", "yes")
    with pytest.raises(settings.SettingError, match=r"^MILLRACE_BEYOND_HORIZON is 'yes'\. Set it to refuse or allow"):
        store.get_historical_features(LABELS.to_pandas(), REFS)


@pytest.mark.parametrize("knowledge_time", [False, True])
def test_a_training_set_is_refused_or_counts_them(cinema: Lake, knowledge_time: bool) -> None:
    with pytest.raises(BeyondHorizonError, match=REFUSED):
        training.create(LABELS, SERVICE, "late", knowledge_time=knowledge_time)
    assert manifest.names() == []
    message: list[str] = []
    made = training.create(
        LABELS, SERVICE, "late", knowledge_time=knowledge_time, allow_beyond_horizon=True, say=message.append
    )
    assert (made.beyond_horizon, made.horizon, manifest.read("late")) == (2, "2017-02-01", made)
    assert any(
        text.startswith("2 of 4 labels lie after 2017-02-01 00:00 UTC, the horizon of release 1") for text in message
    )
    assert training.rebuild("late").same_file


def test_the_leak_check_names_them(cinema: Lake) -> None:
    training.create(LABELS, SERVICE, "late", allow_beyond_horizon=True)
    for result in (training.check_leaks("late"), training.check_labels(LABELS, SERVICE)):
        assert (result.beyond_horizon, result.horizon) == (2, "2017-02-01")
        assert result.sentences[-1].startswith("2 of 4 labels lie after 2017-02-01 00:00 UTC, the horizon of release 1")
        assert not any("Every value was known" in message for message in result.sentences)
        assert json.loads(json.dumps(result.to_dict()))["beyond_horizon"] == 2
    assert training.check_labels(LABELS.slice(0, 2), SERVICE).beyond_horizon == 0


def test_an_older_release_has_its_own_horizon(cinema: Lake) -> None:
    cinema.write("guest_activity", [activity(1, "2017-02-20", "2.00")])
    cinema.release(*VIEWS, horizon="2017-03-01")
    label = pa.table({"guest_id": [1], "event_timestamp": [at("2017-02-20")]})
    assert training.create(label, SERVICE, "newest").beyond_horizon == 0
    with pytest.raises(BeyondHorizonError, match="the horizon of release 1"):
        training.create(label, SERVICE, "older", release=1)


def test_a_set_of_former_code_still_rebuilds_byte_for_byte(cinema: Lake) -> None:
    """Its manifest says nothing of a horizon, and some of its labels lie after it."""
    training.create(LABELS, SERVICE, "former", allow_beyond_horizon=True)
    path = manifest.folder() / "former.json"
    written = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in written.items() if name not in ("horizon", "beyond_horizon")})
    )
    before = (manifest.table_path("former") / sets.FILE).read_bytes()
    (manifest.table_path("former") / sets.FILE).unlink()
    assert training.rebuild("former").restored
    assert (manifest.table_path("former") / sets.FILE).read_bytes() == before
    assert training.check_leaks("former").beyond_horizon == 2


def test_the_command_line_refuses_allows_and_reports(
    cinema: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(LABELS, tmp_path / "labels.parquet")
    create = [
        "training-set",
        "create",
        "--name",
        "late",
        "--labels",
        str(tmp_path / "labels.parquet"),
        "--service",
        SERVICE,
    ]
    assert cli.main(create) == 1
    assert capsys.readouterr().err.startswith("BeyondHorizonError: 2 of 4 labels lie after 2017-02-01")
    assert cli.main([*create, "--allow-beyond-horizon"]) == 0
    assert "2 of 4 labels lie after 2017-02-01" in capsys.readouterr().out
    for command in ("show", "leaks"):
        assert cli.main(["training-set", command, "late"]) == 0
        assert "2 " in (out := capsys.readouterr().out)
        assert "2017-02-01" in out
