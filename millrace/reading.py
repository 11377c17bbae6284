"""Read features with the Feast SDK, as a user does for serving and for training: those of the project's example, or of
the newest rows of its views.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from contracts import project
from contracts.interval import midnight
from contracts.project import ProjectError
from lake import release, settings, storage

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureService, FeatureStore

ROWS = 6


@cache
def _store() -> FeatureStore:
    from feast import FeatureStore

    return FeatureStore(str(settings.CHECKOUT / "features" / "feast_repo"))


def horizon() -> datetime:
    """The horizon of the newest release, which may lie long ago."""
    return midnight(date.fromisoformat(release.read().horizon))


def service() -> FeatureService:
    """The feature service of the example: the one that the project's `demo.py` names, or the first."""
    example, services = project.module("demo"), _store().list_feature_services()
    name = example.SERVICE if example else min((service.name for service in services), default=None)
    if name is None:
        raise ProjectError(
            f"the project {project.current().name} has no feature service. Declare one in"
            f" {project.current().file('services')}"
        )
    return _store().get_feature_service(name)


def entity() -> dict[str, Any]:
    """The keys of an entity with features."""
    example = project.module("demo")
    return example.entity() if example else _newest(1)[0]


def online(keys: dict[str, Any]) -> dict[str, Any]:
    """Every feature of the service for the entity of these keys."""
    answer = _store().get_online_features(service(), [{**keys, "request_time": horizon()}]).to_dict()
    return {name: values[0] for name, values in answer.items()}


def online_over_http(url: str, keys: dict[str, Any]) -> dict[str, Any]:
    """The same from a feature server. ConnectionError where it does not answer, or refuses the request."""
    import json

    import httpx

    entities = {**{name: [value] for name, value in keys.items()}, "request_time": [str(horizon())]}
    body = json.dumps({"feature_service": service().name, "entities": entities}, default=str)
    try:
        response = httpx.post(
            f"{url}/get-online-features",
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=30,
            trust_env=False,  # the server is on our own network, behind no proxy
        )
        answer = response.raise_for_status().json()
    except httpx.HTTPError as error:
        raise ConnectionError(f"{url} did not serve features: {error}") from error
    names, results = answer["metadata"]["feature_names"], answer["results"]
    return {name: result["values"][0] for name, result in zip(names, results, strict=True)}


def training_set() -> pd.DataFrame:
    """Features of a few entities, each as of a different midnight: a month apart if the project chose the entities, and
    a day apart otherwise.
    """
    import pandas as pd

    example = project.module("demo")
    entities, apart = (example.entities(ROWS), 30) if example else (_newest(ROWS), 1)
    labels = pd.DataFrame(
        [{**keys, "event_timestamp": horizon() - timedelta(days=apart * back)} for back, keys in enumerate(entities)]
    )
    labels["request_time"] = labels["event_timestamp"]
    frame: pd.DataFrame = _store().get_historical_features(labels, service()).to_df()
    shown = example.SHOWN if example else [name for name in frame.columns if name != "request_time"]
    return frame.loc[:, [name for name in shown if name in frame.columns]]


def _newest(count: int) -> list[dict[str, Any]]:
    """Join keys of the newest rows of the service's views. Each key comes from the view that has the most keys."""
    names = {projection.name for projection in service().feature_view_projections}
    views = [view for view in _store().list_batch_feature_views() if view.name in names]
    entities: list[dict[str, Any]] = [{} for _ in range(count)]
    for view in sorted(views, key=lambda view: -len(view.join_keys)):
        missing = [key for key in view.join_keys if key not in entities[0]]
        rows = _keys(f"gold.{view.name}", missing, count) if missing else []
        for entity_keys, values in zip(entities, rows, strict=False):
            entity_keys.update(zip(missing, values, strict=True))
    return [entity_keys for entity_keys in entities if entity_keys]


def _keys(table: str, columns: list[str], count: int) -> list[tuple[Any, ...]]:
    names = ", ".join(columns)
    return query(
        table,
        f"SELECT {names} FROM read_parquet(?) GROUP BY {names} ORDER BY max(event_timestamp) DESC, {names} LIMIT"
        f" {count}",
    )


def query(table: str, sql: str) -> list[tuple[Any, ...]]:
    """Query a table at its version in the newest release; the SQL reads it as `read_parquet(?)`."""
    import duckdb
    from deltalake import DeltaTable

    opened = DeltaTable(str(settings.table_path(table)), version=release.read().tables[table])
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        rows: list[tuple[Any, ...]] = con.execute(sql, [opened.file_uris()]).fetchall()
    return rows
