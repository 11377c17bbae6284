"""Feast's lifecycle state of a view never decides what is served, and `feast disable` does."""

import re
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from feast import FeatureViewState
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto

from features import registry
from features.online import consistency, materialize
from features.registry import LifecycleStateError
from features.serving.app import app
from lake import release
from tests.unit.features.conftest import Lake, at

SPEND = ["guest_activity:paid_7d"]


def mark(path: Path, state: FeatureViewState) -> None:
    """Leave every view in a state, as a killed `feast materialize` of Feast's own leaves it."""
    stored = RegistryProto.FromString(path.read_bytes())
    for view in [*stored.feature_views, *stored.on_demand_feature_views]:
        view.meta.state = state.to_proto()
    path.write_bytes(stored.SerializeToString())


def states(path: Path) -> set[int]:
    return {view.meta.state for view in RegistryProto.FromString(path.read_bytes()).feature_views}


def test_every_reader_works_in_every_state(cinema: Lake) -> None:
    materialize.materialize(release.read())
    labels = pd.DataFrame({"guest_id": [2], "event_timestamp": [at("2017-02-01")]})
    for state in FeatureViewState:
        mark(registry.path(), state)
        store = registry.open_store()
        assert store.get_online_features(SPEND, [{"guest_id": 2}]).to_dict()["paid_7d"] == [7.77], state
        assert store.get_historical_features(labels, SPEND).to_df()["paid_7d"].tolist() == [7.77], state
        assert consistency.online().wrong == 0, state
        assert {report.status for report in materialize.materialize(release.read()).views} == {"unchanged"}, state


def test_the_server_answers_while_a_view_is_marked(cinema: Lake) -> None:
    materialize.materialize(release.read())
    mark(registry.path(), FeatureViewState.MATERIALIZING)
    with TestClient(app(), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.post("/get-online-features", json={"features": SPEND, "entities": {"guest_id": [2]}})
        assert answer.status_code == 200
        assert answer.json()["results"][1]["values"] == [7.77]


def test_a_store_that_marks_a_view_goes_on_reading_it(cinema: Lake) -> None:
    """Feast writes the mark from a copy of the registry that it keeps, and reads from the same copy."""
    materialize.materialize(release.read())
    store = registry.open_store()
    view = store.get_feature_view("guest_activity")
    view.state = FeatureViewState.MATERIALIZING
    store.registry.apply_feature_view(view, store.project)
    assert store.get_online_features(SPEND, [{"guest_id": 2}]).to_dict()["paid_7d"] == [7.77]
    assert states(registry.path()) == {0}


def test_a_state_that_is_set_by_hand_is_refused(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    with pytest.raises(LifecycleStateError, match=re.escape("guest_activity was not set to CREATED")) as refused:
        store.set_feature_view_state("guest_activity", FeatureViewState.CREATED)
    assert "feast feature-views disable guest_activity" in str(refused.value)
    assert store.get_online_features(SPEND, [{"guest_id": 2}]).to_dict()["paid_7d"] == [7.77]
    assert states(registry.path()) == {0}


def test_a_disabled_view_is_not_served_and_does_not_stop_the_others(cinema: Lake) -> None:
    registry.apply()
    registry.open_store().disable_feature_view("guest_activity")
    materialize.materialize(release.read())
    store = registry.open_store()
    with pytest.raises(ValueError, match="'guest_activity' is disabled"):
        store.get_online_features(SPEND, [{"guest_id": 2}])
    assert store.get_online_features(["movie_demand:sold_7d"], [{"movie_id": 23}]).to_dict()["sold_7d"] == [6]
    assert {compared.view for compared in consistency.online().features} == {
        "guest_profile",
        "movie_demand",
        "guest_movie",
        "guest_movie_recency",
        "guest_movie_decay",
    }
    store.enable_feature_view("guest_activity")
    assert registry.open_store().get_online_features(SPEND, [{"guest_id": 2}]).to_dict()["paid_7d"] == [7.77]
