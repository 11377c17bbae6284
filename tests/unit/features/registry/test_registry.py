"""The registry: definitions are applied once, carry the contracts' words and no machine's paths."""

import pytest
from feast import Entity, FeatureView
from feast.value_type import ValueType

from features import registry
from features.registry import RegistryDamagedError, RegistryMissingError
from features.source import GoldTable
from lake.settings import CHECKOUT
from tests.projects import GROCERY
from tests.unit.features.conftest import Lake, definitions


def test_applied_twice_is_written_once(lake: Lake) -> None:
    assert registry.apply()
    before = registry.path().stat()
    assert not registry.apply()
    assert registry.path().stat() == before


def test_what_is_registered(lake: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    assert sorted(view.name for view in store.list_batch_feature_views()) == [
        "guest_activity",
        "guest_movie",
        "guest_profile",
        "movie_demand",
    ]
    assert sorted(service.name for service in store.list_feature_services()) == [
        "guest_value_v1",
        "suggestion_v1",
    ]
    view = store.get_feature_view("guest_activity")
    spend = next(field for field in view.features if field.name == "paid_7d")
    assert (spend.description, spend.tags, view.owner) == (
        "Sum of paid in the last 7 days",
        {"unit": "USD"},
        "ml-platform",
    )
    assert not view.ttl
    assert store.get_entity("guest_id").tags == {"pii": "pseudonym"}


def test_what_is_no_longer_defined_goes(lake: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    store.apply([Entity(name="stray", join_keys=["stray"], value_type=ValueType.INT64)])
    [project] = store.registry.list_projects()
    project.tags = {}
    store.registry.apply_project(project)
    assert registry.apply()
    assert "stray" not in [entity.name for entity in registry.open_store().list_entities()]


def test_no_path_of_this_machine_is_stored(lake: Lake) -> None:
    registry.apply()
    content = registry.path().read_bytes()
    assert str(CHECKOUT).encode() not in content
    assert str(registry.path().parent).encode() not in content


def test_a_missing_registry_is_not_invented(lake: Lake) -> None:
    with pytest.raises(RegistryMissingError, match=r"there is no feature registry at .* Run the DAG"):
        registry.open_store().list_feature_views()
    assert not registry.path().exists()


def test_a_source_survives_the_registry() -> None:
    source = GoldTable(
        table="gold.guest_activity",
        created_timestamp_column="created",
        field_mapping={"a": "b"},
        tags={"x": "y"},
        owner="me",
    )
    assert GoldTable.from_proto(source.to_proto()) == source
    assert source != GoldTable(table="gold.guest_profile", name="gold.guest_activity")
    definitions.guest_activity.batch_source.validate(None)


@pytest.mark.parametrize("content", [b"", bytes(100), b"garbage" * 9, b"\xff" * 50])
def test_a_torn_registry_is_named_and_made_again(lake: Lake, content: bytes) -> None:
    registry.apply()
    registry.path().write_bytes(content)
    with pytest.raises(RegistryDamagedError, match=r"^the feature registry at .* is torn\. .*: millrace serve$"):
        registry.open_store().list_feature_views()
    assert registry.apply()
    assert len(registry.open_store().list_batch_feature_views()) == 4


def test_definitions_are_those_of_the_current_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may work for several projects, one after the other."""

    def views() -> set[str]:
        return {definition.name for definition in registry.definitions() if isinstance(definition, FeatureView)}

    cinema = registry.fingerprint()
    assert views() == {"guest_activity", "guest_movie", "guest_profile", "movie_demand"}
    with monkeypatch.context() as patch:
        patch.setenv("MILLRACE_PROJECT", str(GROCERY))
        assert views() == {
            "customer_activity",
            "customer_product",
            "customer_profile",
            "customer_store",
            "customer_velocity",
            "product_popularity",
        }
        assert registry.fingerprint() != cinema
    assert registry.fingerprint() == cinema
