"""A key is given in its own type, everywhere: "1", True and 1.0 are not the key 1, and are an error rather than an
absent row or another entity's.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

from features import registry
from features.offline.labels import LabelError
from features.online import backends, materialize, sqlite
from features.type_mapping import KeyTypeError
from lake import release
from tests.unit.features.conftest import Lake, at, fill

SPEND = ["guest_activity:paid_7d"]
WRONG = ["1", True, 1.0, np.float64(1), np.True_, b"1", None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """The small cinema, online."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(tmp_path_factory.mktemp("keys")))
        patch.delenv("MILLRACE_ONLINE", raising=False)
        fill(Lake())
        materialize.materialize(release.read())
        yield registry.open_store()


def read_online(store: FeatureStore, rows: Any, **more: Any) -> list[Any]:
    return store.get_online_features(SPEND, rows, **more).to_dict()["paid_7d"]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_online(store: FeatureStore, wrong: Any) -> None:
    message = (
        r"key guest_id of the feature view guest_activity is .* \(.*\), and must be a whole number such as 1"
        r" \(INT64\)"
    )
    for rows in ([{"guest_id": 1}, {"guest_id": wrong}], {"guest_id": [1, wrong]}):
        with pytest.raises(KeyTypeError, match=message):
            read_online(store, rows)
        with pytest.raises(KeyTypeError, match=message):  # answered by Feast's own code
            read_online(store, rows, include_feature_view_version_metadata=True)


@pytest.mark.parametrize("right", [2, np.int64(2), np.int32(2), np.uint8(2)], ids=repr)
def test_online_a_whole_number_of_any_width_is_one(store: FeatureStore, right: Any) -> None:
    assert (
        read_online(store, [{"guest_id": right}])
        == read_online(store, {"guest_id": [right]}, include_feature_view_version_metadata=True)
        == [7.77]
    )


def test_online_as_protobuf(store: FeatureStore) -> None:
    assert read_online(store, {"guest_id": RepeatedValue(val=[Value(int64_val=2)])}) == [7.77]
    for wrong in (Value(string_val="2"), Value(double_val=2), Value(int32_val=2), Value()):
        with pytest.raises(KeyTypeError, match="guest_activity"):
            read_online(store, {"guest_id": RepeatedValue(val=[wrong])})


def test_online_by_another_name_of_the_key(store: FeatureStore) -> None:
    """Feast renames the keys of views that are read twice; such requests are answered by its own code."""
    renamed = store.get_feature_view("guest_activity").with_join_key_map({"guest_id": "friend_id"})
    from feast import FeatureService

    service = FeatureService(name="friends", features=[renamed[["paid_7d"]]])
    store.registry.apply_feature_service(service, store.project)
    assert store.get_online_features(service, [{"friend_id": 2}]).to_dict()["paid_7d"] == [7.77]
    with pytest.raises(KeyTypeError, match="key friend_id of the feature view guest_activity is '2'"):
        store.get_online_features(service, [{"friend_id": "2"}])


@pytest.mark.parametrize("wrong", [["1"], [True], [1.0], [1.0, None], [np.float32(1)]], ids=repr)
def test_offline_in_a_data_frame(store: FeatureStore, wrong: list[Any]) -> None:
    labels = pd.DataFrame({"guest_id": wrong}).assign(event_timestamp=at("2017-02-01"))
    with pytest.raises(
        LabelError,
        match=(
            r"guest_id is .* in entity_df, and the key of the feature view guest_activity is"
            r" Int64.*astype\('Int64'\)"
        ),
    ):
        store.get_historical_features(labels, SPEND).to_df()


def test_offline_floats_say_where_they_come_from_and_the_remedy_works(store: FeatureStore) -> None:
    labels = pd.DataFrame({"guest_id": [1, None]}).assign(event_timestamp=at("2017-02-01"))
    with pytest.raises(
        LabelError, match="pandas makes floats of whole numbers as soon as one is missing: drop such rows"
    ):
        store.get_historical_features(labels, SPEND)
    remedied = labels.dropna().astype({"guest_id": "Int64"})
    assert store.get_historical_features(remedied, SPEND).to_df()["paid_7d"].tolist() == [0.05]
    kept = store.get_historical_features(labels.astype({"guest_id": "Int64"}), SPEND).to_df()["paid_7d"]
    assert kept.fillna(-1).tolist() == [0.05, -1]


@pytest.mark.parametrize("wrong", ["'1'", "true", "1.0::DOUBLE", "1.0"])
def test_offline_in_sql(store: FeatureStore, wrong: str) -> None:
    labels = f"SELECT {wrong} AS guest_id, TIMESTAMP '2017-02-01' AS event_timestamp"
    with pytest.raises(
        LabelError, match=re.escape("in the labels' query, ") + ".*" + re.escape("CAST(guest_id AS BIGINT)")
    ):
        store.get_historical_features(labels, SPEND)
    cast = labels.replace(wrong, f"CAST({wrong} AS BIGINT)")
    assert store.get_historical_features(cast, SPEND).to_df()["paid_7d"].tolist() == [0.05]


@pytest.mark.parametrize("wrong", ["1", True, 1.0], ids=repr)
def test_pushed(store: FeatureStore, wrong: Any) -> None:
    rows = {
        "guest_id": [wrong],
        "age_band": ["65+"],
        "tier": ["x"],
        "party_size": ["1"],
        "children": ["0"],
        "event_timestamp": [datetime(2017, 1, 30)],
    }
    before = backends.current()
    with pytest.raises(
        LabelError, match=r"guest_id is .* in the rows, and the key of the feature view guest_profile is Int64"
    ):
        store.write_to_online_store("guest_profile", pd.DataFrame(rows))
    assert store.get_online_features(["guest_profile:age_band"], [{"guest_id": 1}]).to_dict()["age_band"] == ["25-34"]
    assert backends.current() == before
    about = sqlite.SqliteBackend().metadata()
    assert about is not None
    assert not about.pushed
