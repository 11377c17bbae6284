"""The model: gradient-boosted trees over the features of `recommendation_v1`, kept with the training set that made it.

A kept model is a pickle, which runs code when it is opened: only those that this home made are opened.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyarrow as pa

from contracts import manifest, settings
from contracts.files import write_whole
from contracts.manifest import Manifest
from features import training

SERVICE = "recommendation_v1"
TREES, SEED = 200, 7


class ModelError(LookupError):
    """There is no such model, or its features are gone."""


@dataclass
class Model:
    """`features` are the columns in order, `categories` the texts that a text column may hold, and `about` says what it was made from and how good it is."""

    classifier: Any
    features: tuple[str, ...]
    categories: dict[str, list[str]]
    about: dict[str, Any]

    def scores(self, data: pd.DataFrame) -> Any:
        """How likely each row's product is bought, between 0 and 1; ModelError when a feature is missing."""
        missing = [name for name in self.features if name not in data]
        if missing:
            raise ModelError(
                f"the model {self.about['name']} was trained on {', '.join(missing)}, which {self.about['service']} does not give any more."
                " Train it again: millrace recommender train"
            )
        return self.classifier.predict_proba(inputs(data, self.features, self.categories))[:, 1]


def fit(training_set: str, seed: int = SEED) -> Model:
    """Train on a training set with `bought` and `weight`. The same set and seed give the same model."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    made, data = manifest.read(training_set), training.read(training_set)
    names = used(made, data)
    categories = {name: sorted(filter(None, data[name].unique().to_pylist())) for name in names if pa.types.is_string(data[name].type)}
    frame = data.to_pandas()
    classifier = HistGradientBoostingClassifier(max_iter=TREES, random_state=seed, categorical_features="from_dtype")
    classifier.fit(inputs(frame, names, categories), frame["bought"], sample_weight=frame["weight"])
    about = {
        "name": training_set,
        "service": made.service,
        "release": made.release,
        "training_set": made.name,
        "training_set_digest": made.data.digest,
        "rows": made.rows,
        "seed": seed,
        "scikit-learn": version("scikit-learn"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Model(classifier, names, categories, about)


def used(made: Manifest, data: pa.Table) -> tuple[str, ...]:
    """The features that a tree can use: all but instants, whose distances are features of their own."""
    return tuple(one.name for one in made.features if not pa.types.is_timestamp(data[one.name].type))


def inputs(data: pd.DataFrame, features: tuple[str, ...], categories: dict[str, list[str]]) -> pd.DataFrame:
    """The features as the classifier takes them: numbers, and texts as categories; what it does not know is missing."""
    return pd.DataFrame(
        {name: pd.Categorical(data[name], categories=categories[name]) if name in categories else pd.to_numeric(data[name]).astype(float) for name in features}
    )


def folder() -> Path:
    """Where models lie."""
    return settings.home() / "models" / "recommender"


def keep(model: Model) -> Path:
    """Write the model, then what it is about: without that it is none. Returns its folder."""
    place = folder() / str(model.about["name"])
    pickled = io.BytesIO()
    joblib.dump(model, pickled)
    write_whole(place / "model.joblib", pickled.getvalue())
    write_whole(place / "about.json", json.dumps(model.about, indent=1).encode())
    return place


def about(name: str | None = None) -> dict[str, Any]:
    """What the model of that name, or the newest one, is about; ModelError when there is none."""
    known = {path.parent.name: json.loads(path.read_text()) for path in folder().glob("*/about.json")}
    if not known:
        raise ModelError(f"there is no model below {folder()}. Train one: millrace recommender train")
    if name is not None and name not in known:
        raise ModelError(f"there is no model {name}. There are {', '.join(sorted(known))}")
    found: dict[str, Any] = known[name] if name else max(known.values(), key=lambda one: (one["created_at"], one["name"]))
    return found


def load(name: str | None = None) -> Model:
    """The model of that name, or the newest one."""
    found: Model = joblib.load(folder() / about(name)["name"] / "model.joblib")
    return found
