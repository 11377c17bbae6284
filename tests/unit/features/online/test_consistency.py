"""The gate before serving: every value is compared, every kind of fault is caught, and what was served before stays."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from feast.types import Float64

from features import registry, type_mapping
from features.lake_reader import LakeReader
from features.online import backends, consistency, generation, materialize
from features.online.consistency import ConsistencyError
from features.online.generation import OnlineStoreEmptyError
from features.online.sqlite import SqliteDraft
from features.serving import request_plan
from features.serving.response import Answer
from lake import release
from millrace import cli
from tests.unit.features.conftest import VIEWS, Lake, activity, at
from tests.unit.features.online.test_store import online, push

Fault = Callable[[pytest.MonkeyPatch], None]
ACTIVITY, PAIR, PROFILE, DEMAND = 11 + 1, 5 + 2, 4, 7
"""Features of each view, with those on demand."""


def windows_end_a_day_early(patch: pytest.MonkeyPatch) -> None:
    right = materialize.midnight
    patch.setattr(materialize, "midnight", lambda day: right(day) - timedelta(days=1))


def rows_come_from_the_release_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(materialize, "LakeReader", lambda _: LakeReader(release.read(1)))


def money_is_cast_to_a_float(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(
        type_mapping.TYPE_MAPPINGS,
        Float64,
        replace(type_mapping.TYPE_MAPPINGS[Float64], online="CAST(CAST({} AS FLOAT) AS DOUBLE)"),
    )


def altered(sql: str) -> Fault:
    """The file is changed once it is filled."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        right = SqliteDraft.finish

        def finish(draft: SqliteDraft, about: generation.GenerationMetadata) -> None:
            draft.connection.execute(sql)
            right(draft, about)

        patch.setattr(SqliteDraft, "finish", finish)

    return fault


PAIR_COLUMNS = "visits_90d, last_seen_at, recall_visits, recall_began_at, recall_weight"
FAULTS = {
    "a shifted window": (
        windows_end_a_day_early,
        r"guest_activity:paid_7d: 1 mismatched of 2 \(1 has 0\.05 offline and 10\.0 online\)",
    ),
    "a stale generation": (
        rows_come_from_the_release_before,
        r"guest_activity:paid_7d: 1 mismatched, 1 missing of 3 \(2 has 8\.01 offline and 7\.77 online\)",
    ),
    "a float cast": (
        money_is_cast_to_a_float,
        r"guest_activity:paid_7d: 2 mismatched of 2 \(1 has 0\.05 offline and 0\.05000000074505806 online\)",
    ),
    "a dropped row": (
        altered("DELETE FROM guest_profile WHERE guest_id = 1"),
        r"guest_profile:age_band: 1 missing of 2 \(1 has '25-34' offline and NULL online\)",
    ),
    "a row too many": (
        altered(
            f"INSERT INTO guest_movie (guest_id, movie_id, _event_at, _created_at, {PAIR_COLUMNS}) SELECT"
            f" 404, movie_id, _event_at, _created_at, {PAIR_COLUMNS} FROM guest_movie LIMIT 1"
        ),
        (
            r"guest_movie:visits_90d: 1 extra of 4 \(404, .* has NULL offline and \d"
            r" online\).*guest_movie_recency:days_since_last_visit: 1 extra of 4"
        ),
    ),
    "a value changed": (
        altered("UPDATE movie_demand SET sold_28d = 7 WHERE movie_id = 23"),
        r"1 of 67 values online .* movie_demand:sold_28d: 1 mismatched of 2 \(23 has 6 offline and 7 online\)",
    ),
}


def test_every_value_is_compared_and_all_are_the_same(cinema: Lake) -> None:
    result = materialize.materialize(release.read(), sample=None).consistency
    assert result is not None
    assert result.wrong == 0
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict(), (
        "a tuple would come out of an XCom as something else"
    )
    assert result.compared == 2 * ACTIVITY + 3 * PAIR + 2 * PROFILE + 2 * DEMAND
    assert {(feature.view, feature.feature) for feature in result.features} >= {
        ("guest_recency", "days_since_last_booking"),
        ("guest_activity", "last_booked_at"),
    }
    assert result.generation == materialize.materialize(release.read()).views[0].generation


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_and_what_was_served_stays(cinema: Lake, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    inject, message = FAULTS[fault]
    materialize.materialize(release.read(), sample=None)
    store, before = registry.open_store(), backends.current()
    if fault == "a stale generation":
        cinema.write(
            "guest_activity",
            [activity(1, "2017-01-09", "0.05"), activity(2, "2017-01-05", "8.01"), activity(3, "2017-01-05")],
        )
    cinema.release(*VIEWS, horizon="2017-01-09")
    with monkeypatch.context() as patch:
        inject(patch)
        with pytest.raises(ConsistencyError, match=message):
            materialize.materialize(release.read(), sample=None)
    assert backends.current() == before
    assert online(store, "guest_activity:paid_7d", guest_id=2) == 7.77
    assert materialize.materialize(release.read(), sample=None).consistency.wrong == 0  # type: ignore[union-attr]


def test_it_reads_by_the_way_that_users_get(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, answer = [], request_plan.Plans.answer

    def noted(*arguments: Any) -> Any:
        answers.append(answer(*arguments))
        return answers[-1]

    monkeypatch.setattr(request_plan.Plans, "answer", noted)
    materialize.materialize(release.read())
    assert len(answers) == len(VIEWS)
    assert all(isinstance(answer, Answer) for answer in answers)


def test_a_sample_is_of_both_sides(cinema: Lake) -> None:
    result = materialize.materialize(release.read(), sample=1).consistency
    assert result is not None
    assert {feature.compared for feature in result.features} <= {1, 2}
    assert result.wrong == 0


def test_what_is_served_can_be_compared_at_any_time(cinema: Lake) -> None:
    with pytest.raises(OnlineStoreEmptyError, match="no release is online"):
        consistency.online()
    materialize.materialize(release.read())
    cinema.release(*VIEWS, horizon="2999-01-01")
    assert consistency.online(sample=None).wrong == 0
    push(registry.open_store(), 1, at("2017-01-10"), 3.5)
    pushed = {feature.feature: feature for feature in consistency.online(sample=None).features}
    assert (pushed["paid_7d"].mismatched, pushed["paid_7d"].example) == (1, "1 has 0.05 offline and 3.5 online")
    assert pushed["age_band"].wrong == 0


def test_the_command_compares_and_is_1_when_a_value_differs(cinema: Lake, capsys: pytest.CaptureFixture) -> None:
    materialize.materialize(release.read())
    assert cli.main(["compare", "--all"]) == 0
    out = capsys.readouterr().out
    assert ["guest_profile", "age_band", "2", "0", "0", "0"] in [line.split() for line in out.splitlines()]
    assert out.endswith("67 values compared, 0 differ\n")
    push(registry.open_store(), 1, at("2017-01-10"), 3.5)
    assert cli.main(["compare", "--json"]) == 1
    output = capsys.readouterr()
    assert [
        feature["mismatched"] for feature in json.loads(output.out)["features"] if feature["feature"] == "paid_7d"
    ] == [1]
    assert "ConsistencyError: release 1: " in output.err


def test_nobody_else_reads_what_is_not_yet_served(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    materialize.materialize(release.read())
    store, compare, seen = registry.open_store(), consistency._compare_view, []

    def read() -> None:
        seen.append(online(store, "guest_activity:paid_7d", guest_id=2))

    def spied(*arguments: Any) -> Any:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        read()
        return compare(*arguments)

    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)
    monkeypatch.setattr(consistency, "_compare_view", spied)
    materialize.materialize(release.read())
    assert seen[:2] == [7.77, 8.0]


def test_nan_is_the_same_as_nan_and_a_count_is_no_float() -> None:
    assert consistency._difference(float("nan"), float("nan")) == ""
    assert consistency._difference(3, 3.0) == consistency._difference("3", 3) == "mismatched"
    assert consistency._difference(None, None) == ""
