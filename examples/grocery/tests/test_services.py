"""The feature services: what older manifests of training sets know of them still holds."""

from features import registry, views


def test_a_moved_module_is_no_redefinition() -> None:
    """The digest of before `features.recency` became `features.on_demand`: manifests of that time name it."""
    view = views.declared()["customer_recency"]
    assert "from features.on_demand import" in view.feature_transformation.udf_string
    assert registry.definition_digest(view) == "65bcc12185900a3f" != registry.fingerprint([view])
