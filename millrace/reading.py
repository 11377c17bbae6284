"""Read features as a user does, with the plain Feast SDK: for serving and for training."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from contracts.interval import midnight
from lake import release, settings, storage

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

SERVICE = "recommendation_v1"


@cache
def _store() -> FeatureStore:
    from feast import FeatureStore

    return FeatureStore(str(settings.CHECKOUT / "features" / "feast_repo"))


def _now() -> Any:
    """The sample ended long ago; pretend to stand at the end of what the release knows."""
    from datetime import date

    return midnight(date.fromisoformat(release.read().horizon))


def features_of_customer(customer: int) -> dict[str, Any]:
    """Every feature of the service for a customer and the product that it buys most."""
    store = _store()
    answer = store.get_online_features(store.get_feature_service(SERVICE), [_row(customer)]).to_dict()
    return {name: values[0] for name, values in answer.items()}


def features_over_http(url: str, customer: int) -> dict[str, Any]:
    """The same from a feature server. OSError where it does not answer, or refuses; urllib's HTTPError is one."""
    import json
    import urllib.request

    entities = {name: [str(value) if name == "request_time" else value] for name, value in _row(customer).items()}
    body = json.dumps({"feature_service": SERVICE, "entities": entities}).encode()
    request = urllib.request.Request(f"{url}/get-online-features", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        answer = json.load(response)
    names, results = answer["metadata"]["feature_names"], answer["results"]
    return {name: result["values"][0] for name, result in zip(names, results, strict=True)}


def _row(customer: int) -> dict[str, Any]:
    return {"customer_id": customer, "product_id": _favourite(customer), "request_time": _now()}


def _favourite(customer: int) -> int:
    """The product that the customer bought in the most baskets lately."""
    return int(_bought(f"customer_id = {int(customer)}", 1)[0][1])


def training_set(rows: int = 6) -> pd.DataFrame:
    """Features of a few customers and products as of two midnights, one of them long after the last purchase of some."""
    from datetime import timedelta

    import pandas as pd

    labels = [(customer, product, _now() - timedelta(days=30 * back)) for back, (customer, product) in enumerate(_bought("true", rows))]
    entity_df = pd.DataFrame(labels, columns=["customer_id", "product_id", "event_timestamp"])
    entity_df["request_time"] = entity_df["event_timestamp"]
    store = _store()
    frame: pd.DataFrame = store.get_historical_features(entity_df, store.get_feature_service(SERVICE)).to_df()
    shown = [
        "customer_id",
        "product_id",
        "event_timestamp",
        "spend_30d",
        "baskets_30d",
        "units_28d",
        "promoted_share_28d",
        "purchases_90d",
        "days_since_last_purchase",
        "age",
    ]
    return frame.loc[:, [name for name in shown if name in frame.columns]]


def _bought(where: str, rows: int) -> list[tuple[int, int]]:
    """Pairs of customer and product with the most purchases in the release, for an example that shows something."""
    import duckdb
    from deltalake import DeltaTable

    name = "gold.customer_product"
    table = DeltaTable(str(settings.table_path(name)), version=release.read().tables[name])
    query = f"""
        SELECT customer_id, max_by(product_id, (purchases_90d, product_id)) FROM read_parquet(?) WHERE {where}
        GROUP BY customer_id ORDER BY max(purchases_90d) DESC, customer_id LIMIT {rows}"""
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        pairs: list[tuple[int, int]] = con.execute(query, [table.file_uris()]).fetchall()
    return pairs
