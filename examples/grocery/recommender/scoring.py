"""Batch scoring: the best products of every active customer at a release's horizon, as rows of `scores.recommender`.

This module computes the rows; `millrace.pipeline` stages, audits and publishes them like those of any other table.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from contracts.interval import midnight
from features import registry
from features.lake_reader import LakeReader
from grocery.recommender import candidates
from grocery.recommender.evaluation import TOP
from grocery.recommender.model import Model
from lake.release import Release

TABLE = "scores.recommender"


class ScoringError(RuntimeError):
    """There is nothing to score; the message says why."""


def part(model: Model, release: Release) -> dict[str, Any]:
    """The columns that identify the rows of one scoring. They include the release's creation time, since a release that
    was removed and made again has the same number.
    """
    created_at = datetime.fromisoformat(release.created_at)
    return {"model_digest": model.digest, "release": release.number, "release_created_at": created_at}


def scores(model: Model, release: Release, top: int = TOP) -> tuple[pa.Table, int]:
    """The rows of a scoring, by customer and rank, and the expected number of rows: `top` for each active customer, or
    as many as it has candidates.

    Features come from the offline store at the horizon, and equal those served online. ScoringError without an active
    customer.
    """
    at = midnight(date.fromisoformat(release.horizon))
    considered = _considered(release, at.date())
    if considered.empty:
        raise ScoringError(
            f"release {release.number} has no customer who bought anything in the {candidates.ACTIVE_DAYS} days before"
            f" {at.date()}: there is nothing to score. Choose a release whose horizon is not after the data: millrace"
            " recommender score --release NUMBER"
        )
    expected = int(considered.groupby("customer_id").size().clip(upper=top).sum())
    labels = considered.assign(event_timestamp=pd.Timestamp(at), request_time=pd.Timestamp(at))
    store = registry.open_store(release)
    data = store.get_historical_features(labels, store.get_feature_service(model.about["service"])).to_df()
    ranked = data[["customer_id", "product_id"]].assign(score=model.scores(data))
    ranked = (
        ranked.sort_values(["customer_id", "score", "product_id"], ascending=[True, False, True])
        .groupby("customer_id")
        .head(top)
    )
    common = {**part(model, release), "as_of": at, "model": model.about["name"], "scored_at": datetime.now(UTC)}
    rows = ranked.assign(rank=ranked.groupby("customer_id").cumcount() + 1, **common)
    return pa.Table.from_pandas(rows, preserve_index=False), expected


def _considered(release: Release, day: date) -> pd.DataFrame:
    reader, sql = LakeReader(release), candidates.considered_sql(day)
    reader.create_views(sql)
    pairs: pd.DataFrame = reader.connection.sql(sql).to_arrow_table().to_pandas()
    return pairs
