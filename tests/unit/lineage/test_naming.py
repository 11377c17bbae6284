"""One dataset has one name, whoever speaks of it."""

import pytest
from airflow.providers.common.compat.openlineage.utils.utils import translate_airflow_asset
from airflow.sdk import Asset

from lineage import naming


@pytest.mark.parametrize(
    ("location", "namespace", "name"),
    [
        ("/lake/silver/tickets", "file", "/lake/silver/tickets"),
        ("/lake/silver/tickets/", "file", "/lake/silver/tickets"),
        ("/my lake/100%/x", "file", "/my lake/100%/x"),
        ("file:///lake/silver/tickets", "file", "/lake/silver/tickets"),
        ("file://host/lake", "file://host", "/lake"),
        ("s3://bucket/lake/silver/tickets", "s3://bucket", "lake/silver/tickets"),
        ("s3a://bucket/lake", "s3://bucket", "lake"),
        ("s3://bucket", "s3://bucket", "/"),
    ],
)
def test_a_dataset_is_named_by_where_it_lies(location, namespace, name):
    assert naming.of_location(location) == (namespace, name)


@pytest.mark.parametrize("folder", ["lake", "my lake", "50%20off"])
def test_airflow_derives_the_same_dataset_from_the_asset(folder, home, monkeypatch):
    monkeypatch.setenv("MILLRACE_LAKE", str(home / folder))
    asset = Asset(name="silver.tickets", uri=naming.asset_uri("silver.tickets"))

    theirs = translate_airflow_asset(asset, None)

    assert (theirs.namespace, theirs.name) == naming.of_table("silver.tickets")
