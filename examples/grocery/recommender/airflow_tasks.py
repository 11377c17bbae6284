"""Airflow's side of the recommender's steps: params and context in, XComs out."""

from __future__ import annotations

from typing import Any

from millrace import tasks

TRAIN = ("release", "weeks", "held_back", "seed")
SCORE = ("model", "release")


@tasks.final
def prepare(params: dict[str, Any], dag_run: Any) -> dict[str, str]:
    """Create both training sets, and return their names."""
    from dataclasses import asdict

    from grocery.recommender import job

    tasks.ensure_known(dag_run.conf or {}, TRAIN, ", ".join(TRAIN))
    return asdict(job.prepare(params["release"], params["weeks"], params["held_back"], params["seed"], say=print))


@tasks.final
def train(sets: dict[str, str], params: dict[str, Any], ti: Any) -> dict[str, Any]:
    """Fit and evaluate; returns the model's description, with its figures."""
    from grocery.recommender import job, steps

    about = job.finish(job.Sets(**sets), params["weeks"], params["seed"], say=print).about
    steps.record_model(about, tasks.parent(ti))
    for name, figures in about["quality"].items():
        print(
            f"{name}: recall@10 {figures['recall']:.4f}, NDCG@10 {figures['ndcg']:.4f}, over {figures['customers']:,}"
            " customers"
        )
    return about


@tasks.final
def track(about: dict[str, Any]) -> str:
    """Track the model in MLflow, and return the id of its run."""
    from grocery.recommender import model, tracking

    return tracking.track(model.load(about["name"]))


@tasks.final
def score(params: dict[str, Any], context: Any, outlet_events: Any) -> dict[str, Any]:
    """Score with the model and release of the params, by default the newest. Returns both, and the table's report."""
    from grocery.recommender import steps

    tasks.ensure_known(context["dag_run"].conf or {}, SCORE, ", ".join(SCORE))
    scored = steps.score(params["model"], params["release"], context["dag_run"].run_id, tasks.parent(context["ti"]))
    print(scored)
    return {
        "model": scored.model,
        "release": scored.release,
        "as_of": scored.as_of,
        **tasks.record_asset_event(scored.report, outlet_events),
    }
