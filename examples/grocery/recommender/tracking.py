"""Track kept models in MLflow, with parameters, figures, signature and input tables, and find the models made from a
table.

Without `MLFLOW_TRACKING_URI`, runs go to sqlite below `$MILLRACE_HOME/mlflow`. The model is kept first, so an
unreachable server loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grocery.recommender import candidates
from grocery.recommender import model as models
from grocery.recommender.model import Model
from lake import manifest, settings
from lake import release as releases

EXPERIMENT = "recommender"
TAG = "millrace."
URI = "MLFLOW_TRACKING_URI"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Used unless the environment sets them: MLflow's defaults, 7 retries of 120 s, would make a finished training wait for
minutes.
"""


class TrackingError(RuntimeError):
    """MLflow did not take the run. The model is kept, and the message says how to send it again."""

    transient = True


@dataclass(frozen=True)
class Link:
    """A model and its inputs: both training sets, the release, the Delta version of each table. `run` is MLflow's id,
    or None for a model that was not tracked.
    """

    model: str
    digest: str
    training_sets: tuple[str, ...]
    release: int
    tables: dict[str, int]
    run: str | None


def store() -> str:
    """The tracking URI: `MLFLOW_TRACKING_URI`, or sqlite in the home."""
    return os.environ.get(URI) or _local_store()


def _local_store() -> str:
    return f"sqlite:///{settings.home() / 'mlflow' / 'mlflow.db'}"


def track(model: Model) -> str:
    """Create the run of a kept model, or find the existing one, and return its id. TrackingError if MLflow fails."""
    about = model.about
    with _connected(about["name"]) as mlflow:
        experiment = _experiment(mlflow)
        runs = mlflow.MlflowClient().search_runs(
            [experiment],
            f"tags.`{TAG}digest` = '{about['digest']}' and tags.`{TAG}model` = '{about['name']}' and attributes.status"
            " = 'FINISHED'",
        )
        if runs:
            run_id = str(runs[0].info.run_id)
        else:
            with mlflow.start_run(experiment_id=experiment, run_name=about["name"]) as run:
                _log(mlflow, model)
            run_id = str(run.info.run_id)
    if about.get("mlflow_run") != run_id:
        about["mlflow_run"] = run_id
        models.keep(model)
    return run_id


def _log(mlflow: Any, model: Model) -> None:
    about = model.about
    sets = {
        role: manifest.read(about[key]) for role, key in (("training", "training_set"), ("evaluation", "held_back"))
    }
    mlflow.log_params(
        {
            **about["parameters"],
            "seed": about["seed"],
            "weeks": " ".join(about["weeks"]),
            "held_back_weeks": " ".join(about["held_back_weeks"]),
        }
    )
    mlflow.log_metrics({"retrieved": about["retrieved"], **_metrics(about["quality"])})
    tags = {
        "model": about["name"],
        "digest": about["digest"],
        "service": about["service"],
        "release": str(about["release"]),
    }
    for role, training_set in sets.items():
        tags |= {f"{role}_set": training_set.name, f"{role}_set_digest": training_set.data.digest}
    mlflow.set_tags({f"{TAG}{name}": value for name, value in tags.items()})
    for role, training_set in sets.items():
        name, digest = training_set.name, training_set.data.digest
        mlflow.log_dict(asdict(training_set), f"manifests/{name}.json")
        mlflow.log_input(_dataset(name, manifest.table_path(name), None, digest), context=role)
    for table, identity, number in sets["training"].versions:
        mlflow.log_input(_dataset(table, settings.table_path(table), number, f"{identity}-{number}"), context="table")
    mlflow.log_dict(about, "about.json")
    example = models.inputs(_one_row(model), model.features, model.categories)
    signature = mlflow.models.infer_signature(example, model.booster.predict(example, num_threads=1))
    mlflow.log_dict(model.categories, "categories.json")
    mlflow.lightgbm.log_model(
        model.booster, name="model", signature=signature, pip_requirements=[f"lightgbm=={version('lightgbm')}"]
    )


def _one_row(model: Model) -> Any:
    from features import training

    return training.read(model.about["training_set"]).slice(0, 1).to_pandas()


def _metrics(quality: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Every figure as `<ranking>.<name>`, the ends of an interval as `_low` and `_high`."""
    metrics: dict[str, float] = {}
    for ranking, figures in quality.items():
        for name, value in figures.items():
            if isinstance(value, list):
                low, high = value
                prefix = f"{ranking}.{name.removesuffix('_interval')}"
                metrics |= {f"{prefix}_low": float(low), f"{prefix}_high": float(high)}
            else:
                metrics[f"{ranking}.{name}"] = float(value)
    return metrics


def _dataset(name: str, path: Path, number: int | None, digest: str) -> Any:
    """A Delta table as an MLflow dataset. MLflow keeps 36 characters of a digest; the run's tags have all of it."""
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    return MetaDataset(DeltaDatasetSource(path=str(path), delta_table_version=number), name=name, digest=digest[:36])


def _experiment(mlflow: Any) -> str:
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment:
        return str(experiment.experiment_id)
    is_local = str(mlflow.get_tracking_uri()) == _local_store()
    location = (settings.home() / "mlflow" / "artifacts").as_uri() if is_local else None
    return str(mlflow.create_experiment(EXPERIMENT, artifact_location=location))


@contextmanager
def _connected(name: str) -> Iterator[Any]:
    """MLflow, set to the tracking store and without telemetry. Its errors and network errors become a TrackingError."""
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    import mlflow.lightgbm
    from mlflow.exceptions import MlflowException

    is_remote = bool(os.environ.get(URI))
    if not is_remote:
        (settings.home() / "mlflow").mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(store())
    try:
        yield mlflow
    except (MlflowException, OSError) as error:
        where = f"the server that {URI} names" if is_remote else f"the store below {settings.home() / 'mlflow'}"
        raise TrackingError(
            f"MLflow did not take the run of model {name}: {where} answered {type(error).__name__}. The model is kept"
            f" at {models.folder() / name}, and can be used. See that MLflow is up, then send it again: millrace"
            f" recommender track {name}"
        ) from None  # MLflow's message may contain the URI, with a password
    finally:
        if not is_remote:
            # MLflow sets it, and the next home of this process would use this one's store.
            os.environ.pop(URI, None)


def links(
    model: str | None = None, training_set: str | None = None, release: int | None = None, table: str | None = None
) -> list[Link]:
    """The kept models, oldest first: those that match every given name, training set, release and table."""
    names = [models.about(model)["name"]] if model else None
    kept = [_link(about) for about in models.kept() if names is None or about["name"] in names]
    return [
        link
        for link in kept
        if (training_set is None or training_set in link.training_sets)
        and (release is None or release == link.release)
        and (table is None or table in link.tables)
    ]


def _link(about: dict[str, Any]) -> Link:
    sets = (about["training_set"], about["held_back"])
    manifests = [manifest.read(name) for name in sets if name in manifest.names()]
    tables = {table: number for training_set in manifests for table, _, number in training_set.versions}
    if about["release"] in releases.numbers():  # the labels are read from it
        tables |= {candidates.EVENTS: releases.read(about["release"]).tables[candidates.EVENTS]}
    return Link(about["name"], about.get("digest", ""), sets, about["release"], tables, about.get("mlflow_run"))
