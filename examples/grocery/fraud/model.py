"""The model: gradient-boosted trees (LightGBM) on the features of `fraud_v1`, kept as text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features import registry, training
from features.lake_reader import LakeReader, pinned
from grocery.fraud import evaluation, injection
from grocery.fraud.evaluation import Periods
from grocery.fraud.injection import FraudError
from lake import manifest, settings
from lake.files import write_whole

SERVICE, AMOUNT, LABEL = "fraud_v1", "line_amount", "is_fraud"
TREES = 150
PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}
LINES = """
    SELECT customer_id, store_id, basket_id, product_id, CAST(sales_value AS DOUBLE) AS line_amount,
        transaction_at AS event_timestamp
    FROM silver.transactions
    WHERE transaction_at >= TIMESTAMPTZ '{start} 00:00:00+00' AND transaction_at < TIMESTAMPTZ '{end} 00:00:00+00'"""


@dataclass(frozen=True)
class Model:
    """A fitted model: its columns in order, the score from which a line is suspicious, and what it was made from."""

    booster: Any
    features: tuple[str, ...]
    threshold: float
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """The name that scores carry."""
        return str(self.about["name"])

    def scores(self, lines: pd.DataFrame) -> np.ndarray:
        """How likely each line is fraud, from 0 to 1, as if fraud were as frequent as in the training set."""
        missing = [name for name in self.features if name not in lines]
        if missing:
            raise FraudError(
                f"the model {self.name} needs {', '.join(missing)}, which {SERVICE} does not give. Train it again:"
                " millrace fraud train"
            )
        scores: np.ndarray = self.booster.predict(inputs(lines, self.features), num_threads=1)
        return scores


def inputs(lines: pd.DataFrame, features: tuple[str, ...]) -> pd.DataFrame:
    """The features as LightGBM takes them: doubles, NaN where there is no value."""
    return pd.DataFrame({name: lines[name].astype(float) for name in features})


def create_training_set(number: int | None = None, say: Any = None) -> str:
    """Features of every line of the labels' period at its own instant, and whether it is fraud. Returns its name; an
    existing set is reused.
    """
    release, known = pinned(number), injection.labels()
    periods = Periods.of(known)
    if str(periods.end) > release.horizon:
        raise FraudError(
            f"release {release.number} knows the days before {release.horizon}, and fraud was invented up to"
            f" {periods.end}. Run them first: millrace run --start {periods.start} --end {periods.end}"
        )
    digest = hashlib.sha256(injection.labels_file().read_bytes()).hexdigest()[:8]
    name = f"fraud_r{release.number}_{registry.fingerprint()[:8]}_{digest}"
    if name in manifest.names():
        return name
    reader, sql = LakeReader(release), LINES.format(start=periods.start, end=periods.end)
    reader.create_views(sql)
    lines = reader.connection.sql(sql).to_arrow_table()
    is_fraud = pd.Series(lines["basket_id"].to_numpy()).isin(known["basket_id"])
    if not is_fraud.any():
        raise FraudError("the release has none of the invented baskets. Run their days again: millrace run")
    labels = lines.append_column(LABEL, pa.array(is_fraud))
    training.create(labels, SERVICE, name, release=release.number, **({"say": say} if say else {}))
    return name


def train(training_set: str, seed: int) -> Model:
    """Fit to the first period, choose thresholds on the second, measure on the third; keep and return the model."""
    import lightgbm

    source, data, known = manifest.read(training_set), training.read(training_set), injection.labels()
    periods = Periods.of(known)
    timestamps = {field.name for field in data.schema if pa.types.is_timestamp(field.type)}
    names = (AMOUNT, *(feature.name for feature in source.features if feature.name not in timestamps))
    frame = data.to_pandas().sort_values(["event_timestamp", "basket_id", "product_id"])
    first = periods.first(frame)
    matrix = lightgbm.Dataset(inputs(first, names), first[LABEL].astype(int))
    booster = lightgbm.train({**PARAMETERS, "seed": seed}, matrix, TREES)
    frame["score"] = booster.predict(inputs(frame, names), num_threads=1)
    figures = evaluation.judge(frame, known, periods)
    about = {
        "name": f"{training_set}_s{seed}",
        "service": SERVICE,
        "release": source.release,
        "training_set": source.name,
        "training_set_digest": source.data.digest,
        "features": [*names],
        "threshold": figures["methods"]["model"]["threshold"],
        "rows": len(first),
        "parameters": {**PARAMETERS, "trees": TREES, "seed": seed},
        "invented": "All fraud is invented: see docs/fraud.md",
        "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        **figures,
    }
    model = Model(booster, names, about["threshold"], about)
    keep(model)
    return model


def folder() -> Path:
    """The folder of all kept models."""
    return settings.home() / "models" / "fraud"


def keep(model: Model) -> None:
    """Write the model, then `about.json`, without which it does not count as kept."""
    path = folder() / model.name
    write_whole(path / "model.txt", model.booster.model_to_string().encode())
    write_whole(path / "about.json", json.dumps(model.about, indent=1, default=_plain).encode())


def load(name: str | None = None) -> Model:
    """The named model, by default the newest; FraudError if there is none."""
    import lightgbm

    kept = sorted((json.loads(path.read_text()) for path in folder().glob("*/about.json")), key=_age)
    found = [about for about in kept if name in (None, about["name"])]
    if not found:
        names = ", ".join(about["name"] for about in kept) or "none"
        raise FraudError(f"there is no model {name or 'of fraud'}; there are {names}. Train one: millrace fraud train")
    about = found[-1]
    booster = lightgbm.Booster(model_str=(folder() / about["name"] / "model.txt").read_text())
    return Model(booster, tuple(about["features"]), about["threshold"], about)


def _age(about: dict[str, Any]) -> str:
    return str(about["created_at"])


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, date) else value.item()
