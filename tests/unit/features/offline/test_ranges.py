"""`get_historical_features` without an entity_df: what is known at each change in a range of time."""

from datetime import datetime

import pandas as pd
import pytest
from feast import FeatureStore

from features import registry
from features.offline.labels import LabelError
from tests.unit.features.conftest import Lake, at


@pytest.fixture
def store(cinema: Lake) -> FeatureStore:
    registry.apply()
    return registry.open_store()


def between(
    store: FeatureStore, features: object, start: datetime, end: datetime | None = None, **more: object
) -> pd.DataFrame:
    return store.get_historical_features(features=features, start_date=start, end_date=end, **more).to_df()


def test_each_row_of_the_range_as_of_its_instant(store: FeatureStore) -> None:
    """guest_activity has rows on the 2nd, 5th and 9th, and one after the horizon; the profile of guest 1 is of
    the 1st.
    """
    result = between(store, ["guest_activity:paid_7d"], at("2017-01-02"), at("2017-01-08"))
    assert result.to_dict("list") == {
        "guest_id": [1, 2],
        "event_timestamp": [at("2017-01-02"), at("2017-01-05")],
        "paid_7d": [10.0, 7.77],
    }
    result = between(store, ["guest_activity:paid_7d", "guest_profile:age_band"], at("2017-01-01"))
    assert [
        (row.guest_id, f"{row.event_timestamp:%d}", row.paid_7d, row.age_band) for row in result.fillna(-1).itertuples()
    ] == [
        (1, "01", -1, "25-34"),
        (12, "01", -1, "65+"),
        (1, "02", 10.0, "25-34"),
        (2, "05", 7.77, -1),
        (1, "09", 0.05, "25-34"),
        (12, "09", -1, -1),
    ]


def test_a_service_with_fewer_keys_in_some_views_and_on_demand_features(store: FeatureStore) -> None:
    result = between(store, store.get_feature_service("suggestion_v1"), datetime(2017, 1, 2), datetime(2017, 1, 31))
    assert [*zip(result.guest_id, result.movie_id, result.visits_90d, strict=True)] == [
        (1, 23, 9),
        (12, 3, 7),
        (1, 3, 2),
    ]
    assert result.paid_7d.fillna(-1).tolist() == [10.0, -1, 10.0]
    assert result.sold_7d.fillna(-1).tolist() == [-1, 5, 5]
    assert result.request_time.tolist() == result.event_timestamp.tolist()
    assert result.days_since_last_visit.tolist() == pytest.approx([0.604, 0.604, 0.0], abs=0.001)


def test_it_is_what_labels_would_give(store: FeatureStore) -> None:
    features = ["guest_activity:paid_7d", "guest_profile:age_band"]
    result = between(store, features, at("2017-01-01"), at("2017-03-01"))
    labelled = store.get_historical_features(result[["guest_id", "event_timestamp"]], features).to_df()
    pd.testing.assert_frame_equal(result, labelled)


def test_what_cannot_be_ranged_over(store: FeatureStore) -> None:
    with pytest.raises(LabelError, match="start_date is needed"):
        store.get_historical_features(features=["guest_activity:paid_7d"], end_date=at("2017-02-01"))
    with pytest.raises(LabelError, match="must have all keys of the request, guest_id, movie_id, and none of"):
        between(store, ["guest_activity:paid_7d", "movie_demand:sold_7d"], at("2017-01-01"))
    assert between(store, ["guest_activity:paid_7d"], at("2019-01-01"), at("2020-01-01")).empty
