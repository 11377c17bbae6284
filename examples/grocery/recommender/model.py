"""The model: LambdaMART (LightGBM) on the features of `recommendation_v1`, kept with the name of its training set.

A kept model is a pickle, and loading one runs code: only models of this home are loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyarrow as pa

from features import training
from lake import manifest, settings
from lake.files import write_whole
from lake.manifest import Manifest

SERVICE = "recommendation_v1"
TREES, SEED = 250, 7
PARAMETERS = {
    "objective": "lambdarank",
    "learning_rate": 0.035,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "lambdarank_truncation_level": 15,
    "max_bin": 127,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbose": -1,
}
"""Tuned on the two weeks before those that docs/train-and-serve.md reports. More than one thread changes the last
digits.
"""


class ModelError(LookupError):
    """There is no such model, or its features no longer exist."""


@dataclass
class Model:
    """A fitted model. `features` are its columns in order, `categories` the known values of each text column, and
    `about` says what it was made from and how good it is. Kept models are pickles of this class.
    """

    booster: Any
    features: tuple[str, ...]
    categories: dict[str, list[str]]
    about: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the trees, the features and the categories: all that determines a score."""
        facts = json.dumps([self.features, self.categories])
        return hashlib.sha256((self.booster.model_to_string() + facts).encode()).hexdigest()

    def scores(self, data: pd.DataFrame) -> Any:
        """One score per row, comparable only within one customer and week. ModelError for a missing feature."""
        missing = [name for name in self.features if name not in data]
        if missing:
            raise ModelError(
                f"the model {self.about['name']} was trained on {', '.join(missing)}, which {self.about['service']}"
                " does not give any more. Train it again: millrace recommender train"
            )
        return self.booster.predict(inputs(data, self.features, self.categories), num_threads=1)


def fit(training_set: str, weeks: Sequence[date], seed: int = SEED) -> Model:
    """Fit a model to `bought` in these weeks of a training set. The same set, weeks and seed give the same model.

    ModelError if the set has no row of a week.
    """
    import lightgbm

    source, data = manifest.read(training_set), training.read(training_set)
    names = used(source, data)
    categories = {
        name: sorted(filter(None, data[name].unique().to_pylist()))
        for name in names
        if pa.types.is_string(data[name].type)
    }
    frame = data.to_pandas()
    since = frame["event_timestamp"].dt.date
    missing = sorted({*weeks} - {*since})
    if missing:
        raise ModelError(
            f"training set {training_set} has no row of the week from {missing[0]} on. Nobody bought anything then, or"
            " it was made of other weeks"
        )
    frame = frame[since.isin([*weeks])].sort_values(["event_timestamp", "customer_id", "product_id"])
    groups = frame.groupby(["event_timestamp", "customer_id"], sort=True).size()
    matrix = lightgbm.Dataset(
        inputs(frame, names, categories), frame["bought"].astype(int), group=groups, categorical_feature=[*categories]
    )
    booster = lightgbm.train({**PARAMETERS, "seed": seed}, matrix, TREES)
    about = {
        "name": f"{training_set}_s{seed}_{weeks[-1]:%Y%m%d}",
        "service": source.service,
        "release": source.release,
        "training_set": source.name,
        "training_set_digest": source.data.digest,
        "weeks": [str(week) for week in weeks],
        "rows": len(frame),
        "seed": seed,
        "parameters": {**PARAMETERS, "trees": TREES},
        "lightgbm": version("lightgbm"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Model(booster, names, categories, about)


def used(source: Manifest, data: pa.Table) -> tuple[str, ...]:
    """The names of the features that a tree can use: all but timestamps, whose ages are features of their own."""
    return tuple(feature.name for feature in source.features if not pa.types.is_timestamp(data[feature.name].type))


def inputs(data: pd.DataFrame, features: tuple[str, ...], categories: dict[str, list[str]]) -> pd.DataFrame:
    """The features as LightGBM takes them: numbers, and category codes for texts; an unknown text is missing."""
    return pd.DataFrame(
        {
            name: (
                _codes(data[name], categories[name]) if name in categories else pd.to_numeric(data[name]).astype(float)
            )
            for name in features
        }
    )


def _codes(texts: pd.Series, categories: list[str]) -> pd.Series:
    codes = pd.Series(pd.Categorical(texts, categories=categories).codes, texts.index)
    return codes.where(codes >= 0).astype(float)


def folder() -> Path:
    """The folder of all kept models."""
    return settings.home() / "models" / "recommender"


def keep(model: Model) -> Path:
    """Write the model, then `about.json`, without which it does not count as kept. Returns its folder."""
    path = folder() / str(model.about["name"])
    model.about["digest"] = model.digest
    pickled = io.BytesIO()
    joblib.dump(model, pickled)
    write_whole(path / "model.joblib", pickled.getvalue())
    write_whole(path / "about.json", json.dumps(model.about, indent=1).encode())
    return path


def kept() -> list[dict[str, Any]]:
    """The `about` of every kept model, oldest first."""
    contents = [json.loads(path.read_text()) for path in folder().glob("*/about.json")]
    return sorted(contents, key=lambda about: (about["created_at"], about["name"]))


def about(name: str | None = None) -> dict[str, Any]:
    """The `about` of the named model, by default of the newest; ModelError if there is none."""
    by_name = {content["name"]: content for content in kept()}
    if not by_name:
        raise ModelError(f"there is no model below {folder()}. Train one: millrace recommender train")
    if name is not None and name not in by_name:
        raise ModelError(f"there is no model {name}. There are {', '.join(sorted(by_name))}")
    content: dict[str, Any] = by_name[name or [*by_name][-1]]
    return content


def load(name: str | None = None) -> Model:
    """The named model, by default the newest; ModelError if there is none."""
    model: Model = joblib.load(folder() / about(name)["name"] / "model.joblib")
    return model
