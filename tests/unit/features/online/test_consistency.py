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
ACTIVITY, PAIR, PROFILE, POPULARITY = 11 + 1, 5 + 3, 4, 7
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


PAIR_COLUMNS = "purchases_90d, last_purchased_at, memory_purchases, memory_began_at, memory_weight"
FAULTS = {
    "a shifted window": (
        windows_end_a_day_early,
        r"customer_activity:spend_7d: 1 mismatched of 2 \(1 has 0\.05 offline and 10\.0 online\)",
    ),
    "a stale generation": (
        rows_come_from_the_release_before,
        r"customer_activity:spend_7d: 1 mismatched, 1 missing of 3 \(2 has 8\.01 offline and 7\.77 online\)",
    ),
    "a float cast": (
        money_is_cast_to_a_float,
        r"customer_activity:spend_7d: 2 mismatched of 2 \(1 has 0\.05 offline and 0\.05000000074505806 online\)",
    ),
    "a dropped row": (
        altered("DELETE FROM customer_profile WHERE customer_id = 1"),
        r"customer_profile:age: 1 missing of 2 \(1 has '25-34' offline and NULL online\)",
    ),
    "a row too many": (
        altered(
            f"INSERT INTO customer_product (customer_id, product_id, _event_at, _created_at, {PAIR_COLUMNS}) SELECT"
            f" 404, product_id, _event_at, _created_at, {PAIR_COLUMNS} FROM customer_product LIMIT 1"
        ),
        (
            r"customer_product:purchases_90d: 1 extra of 4 \(404, .* has NULL offline and \d"
            r" online\).*customer_product_recency:days_since_last_purchase: 1 extra of 4"
        ),
    ),
    "a value changed": (
        altered("UPDATE product_popularity SET units_28d = 7 WHERE product_id = 23"),
        r"1 of 70 values online .* product_popularity:units_28d: 1 mismatched of 2 \(23 has 6 offline and 7 online\)",
    ),
}


def test_every_value_is_compared_and_all_are_the_same(shop: Lake) -> None:
    found = materialize.materialize(release.read(), sample=None).consistency
    assert found is not None
    assert found.wrong == 0
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict(), (
        "a tuple would come out of an XCom as something else"
    )
    assert found.compared == 2 * ACTIVITY + 3 * PAIR + 2 * PROFILE + 2 * POPULARITY
    assert {(one.view, one.feature) for one in found.features} >= {
        ("customer_recency", "days_since_last_basket"),
        ("customer_activity", "last_basket_at"),
    }
    assert found.generation == materialize.materialize(release.read()).views[0].generation


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_and_what_was_served_stays(shop: Lake, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    inject, told = FAULTS[fault]
    materialize.materialize(release.read(), sample=None)
    store, before = registry.open_store(), backends.current()
    if fault == "a stale generation":
        shop.write(
            "customer_activity",
            [activity(1, "2017-01-09", "0.05"), activity(2, "2017-01-05", "8.01"), activity(3, "2017-01-05")],
        )
    shop.release(*VIEWS, horizon="2017-01-09")
    with monkeypatch.context() as patch:
        inject(patch)
        with pytest.raises(ConsistencyError, match=told):
            materialize.materialize(release.read(), sample=None)
    assert backends.current() == before
    assert online(store, "customer_activity:spend_7d", customer_id=2) == 7.77
    assert materialize.materialize(release.read(), sample=None).consistency.wrong == 0  # type: ignore[union-attr]


def test_it_reads_by_the_way_that_users_get(shop: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, answer = [], request_plan.Plans.answer

    def noted(*arguments: Any) -> Any:
        answers.append(answer(*arguments))
        return answers[-1]

    monkeypatch.setattr(request_plan.Plans, "answer", noted)
    materialize.materialize(release.read())
    assert len(answers) == len(VIEWS)
    assert all(isinstance(one, Answer) for one in answers)


def test_a_sample_is_of_both_sides(shop: Lake) -> None:
    found = materialize.materialize(release.read(), sample=1).consistency
    assert found is not None
    assert {one.compared for one in found.features} <= {1, 2}
    assert found.wrong == 0


def test_what_is_served_can_be_compared_at_any_time(shop: Lake) -> None:
    with pytest.raises(OnlineStoreEmptyError, match="no release is online"):
        consistency.online()
    materialize.materialize(release.read())
    shop.release(*VIEWS, horizon="2999-01-01")
    assert consistency.online(sample=None).wrong == 0
    push(registry.open_store(), 1, at("2017-01-10"), 3.5)
    pushed = {one.feature: one for one in consistency.online(sample=None).features}
    assert (pushed["spend_7d"].mismatched, pushed["spend_7d"].example) == (1, "1 has 0.05 offline and 3.5 online")
    assert pushed["age"].wrong == 0


def test_the_command_compares_and_is_1_when_a_value_differs(shop: Lake, capsys: pytest.CaptureFixture) -> None:
    materialize.materialize(release.read())
    assert cli.main(["compare", "--all"]) == 0
    out = capsys.readouterr().out
    assert ["customer_profile", "age", "2", "0", "0", "0"] in [line.split() for line in out.splitlines()]
    assert out.endswith("70 values compared, 0 differ\n")
    push(registry.open_store(), 1, at("2017-01-10"), 3.5)
    assert cli.main(["compare", "--json"]) == 1
    told = capsys.readouterr()
    assert [one["mismatched"] for one in json.loads(told.out)["features"] if one["feature"] == "spend_7d"] == [1]
    assert "ConsistencyError: release 1: " in told.err


def test_nobody_else_reads_what_is_not_yet_served(shop: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    materialize.materialize(release.read())
    store, compare, seen = registry.open_store(), consistency._compare_view, []

    def read() -> None:
        seen.append(online(store, "customer_activity:spend_7d", customer_id=2))

    def spied(*arguments: Any) -> Any:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        read()
        return compare(*arguments)

    shop.write("customer_activity", [activity(2, "2017-01-05", "8.00")])
    shop.release(*VIEWS)
    monkeypatch.setattr(consistency, "_compare_view", spied)
    materialize.materialize(release.read())
    assert seen[:2] == [7.77, 8.0]


def test_nan_is_the_same_as_nan_and_a_count_is_no_float() -> None:
    assert consistency._difference(float("nan"), float("nan")) == ""
    assert consistency._difference(3, 3.0) == consistency._difference("3", 3) == "mismatched"
    assert consistency._difference(None, None) == ""
