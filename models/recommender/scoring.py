"""Batch scoring: the best products of every active customer at a release's horizon, published as one Delta table.

A scoring is a model and a release. It is published in one commit, which says its name; whoever repeats it finds that commit and writes nothing, so a rerun after a kill ends
in the same table. Nothing is published that breaks `check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import Transaction

from contracts import release, settings, storage
from contracts.bucket import LockedError
from contracts.interval import midnight
from features import registry
from features.lake_reader import LakeReader, pinned
from models.recommender import candidates
from models.recommender.evaluation import TOP
from models.recommender.model import Model

LOCK_SECONDS = 600
SCHEMA = pa.schema(
    [
        pa.field("customer_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("as_of", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("release", pa.int64(), nullable=False),
        pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""One row per model, release, customer and rank. `as_of` is the midnight whose features were read, the release's horizon."""


class ScoringError(RuntimeError):
    """Scores that are not published, or a table that another process holds; the message says why."""


@dataclass(frozen=True)
class Scoring:
    """What there is of a model and a release: how many customers and rows, in which version of the table; `is_new` when this call published it."""

    model: str
    release: int
    as_of: str
    customers: int
    rows: int
    version: int
    is_new: bool


def table_path() -> Path:
    """Where the Delta table lies."""
    return settings.lake() / "scores" / "recommender"


def score(model: Model, number: int | None = None, top: int = TOP) -> Scoring:
    """Publish the `top` products of every active customer as of a release (the newest by default), unless they are there. ScoringError when they break `check`."""
    found = pinned(number)
    path = settings.lake() / "_locks" / "scores.recommender.lock"
    try:
        with storage.locked(path, LOCK_SECONDS):
            return _published(model, found) or _publish(model, found, top)
    except LockedError:
        raise ScoringError(f"another process has scored for more than {LOCK_SECONDS} s. Wait for it to end, or end it, then try again") from None


def scores(model: Model, found: release.Release, top: int = TOP) -> pa.Table:
    """The rows of a scoring, by customer and rank: features from the offline store at the horizon, which are those served online."""
    reader, at = LakeReader(found), midnight(date.fromisoformat(found.horizon))
    sql = candidates.considered_sql(at.date())
    reader.offer(sql)
    labels = reader.connection.sql(sql).to_arrow_table().to_pandas()
    if labels.empty:
        raise ScoringError(
            f"release {found.number} has no customer who bought anything in the {candidates.ACTIVE_DAYS} days before {at.date()}: there is nothing to score"
        )
    labels = labels.assign(event_timestamp=pd.Timestamp(at), request_time=pd.Timestamp(at))
    store = registry.open_store(found)
    data = store.get_historical_features(labels, store.get_feature_service(model.about["service"])).to_df()
    ranked = data[["customer_id", "product_id"]].assign(score=model.scores(data))
    ranked = ranked.sort_values(["customer_id", "score", "product_id"], ascending=[True, False, True]).groupby("customer_id").head(top)
    facts = {
        "as_of": at,
        "model": model.about["name"],
        "model_digest": model.digest,
        "release": found.number,
        "scored_at": datetime.now(UTC),
    }
    return pa.Table.from_pandas(
        ranked.assign(rank=ranked.groupby("customer_id").cumcount() + 1, **facts)[SCHEMA.names],
        SCHEMA,
        preserve_index=False,
    )


def check(rows: pa.Table) -> None:
    """ScoringError unless each customer's ranks count from 1 up, no product comes twice, and scores are finite and fall."""
    frame = rows.select(["customer_id", "rank", "product_id", "score"]).to_pandas().sort_values(["customer_id", "rank"])
    customers = frame.groupby("customer_id")
    broken = {
        "a rank is missing or comes twice": frame["rank"] != customers.cumcount() + 1,
        "a product comes twice": frame.duplicated(["customer_id", "product_id"]),
        "a score is not a finite number": ~frame["score"].between(-1e300, 1e300),
        "a score is higher than the one before it": customers["score"].diff() > 0,
    }
    reasons = [f"{reason} ({int(rows.sum()):,} rows, such as customer {frame['customer_id'][rows].iloc[0]})" for reason, rows in broken.items() if rows.any()]
    if reasons:
        raise ScoringError(f"scores are not published: {'; '.join(reasons)}. The table is as it was. Train the model again: millrace recommender train")


def _publish(model: Model, found: release.Release, top: int) -> Scoring:
    rows = scores(model, found, top)
    check(rows)
    properties = CommitProperties(app_transactions=[Transaction(_name(model, found), 1)], max_commit_retries=0)
    path = table_path()
    storage.make_folder(path)
    write_deltalake(
        path,
        rows,
        mode="append",
        commit_properties=properties,
        name="recommender",
        description="The best products of each customer, by model and release",
    )
    scoring = _published(model, found)
    if scoring is None:
        raise ScoringError(f"the scores were committed to {path} and are not there. See that nobody else writes to that table, then score again")
    return Scoring(**{**scoring.__dict__, "is_new": True})


def _published(model: Model, found: release.Release) -> Scoring | None:
    """The scoring, if a commit has published it."""
    try:
        table = DeltaTable(str(table_path()))
    except TableNotFoundError:
        return None
    if table.transaction_version(_name(model, found)) is None:
        return None
    ours = (pc.field("model_digest") == model.digest) & (pc.field("release") == found.number)
    rows = table.to_pyarrow_dataset().to_table(["customer_id"], filter=ours)
    return Scoring(
        model.about["name"],
        found.number,
        found.horizon,
        len(rows["customer_id"].unique()),
        rows.num_rows,
        table.version(),
        False,
    )


def _name(model: Model, found: release.Release) -> str:
    """What a commit is known by: a release that was made anew after its removal has another time of creation."""
    return f"recommender:{model.digest}:{found.number}:{found.created_at}"
