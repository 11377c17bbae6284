"""Airflow's side of the steps: context in, asset events and XComs out. The steps themselves know nothing of Airflow."""

from __future__ import annotations

import difflib
from typing import Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException

from contracts.interval import Interval, IntervalError
from contracts.model import Table
from lineage.naming import asset_uri

INTERVAL = ("start", "end")
TRAINING_SET = ("name", "labels", "service", "release", "knowledge_time", "seed", "allow_beyond_horizon")
RECOMMENDER = ("release", "weeks", "seed")


def asset(qualified: str) -> Asset:
    """The Asset of a table; lineage events name the same dataset."""
    return Asset(name=qualified, uri=asset_uri(qualified), group=qualified.split(".")[0])


def check_interval(params: dict[str, Any], dag_run: Any) -> dict[str, str]:
    """The interval of this run as ISO dates: from the params, or from the schedule's data interval when neither is given."""
    from dags import steps

    _refuse_unknown(dag_run.conf or {}, INTERVAL, "start and end (ISO dates, end exclusive)")
    start, end, scheduled = params.get("start"), params.get("end"), False
    if not start and not end and dag_run.run_type != "manual":
        start, end, scheduled = str(dag_run.data_interval_start.date()), str(dag_run.data_interval_end.date()), True
    try:
        interval = steps.check_interval(start, end, scheduled=scheduled)
    except (IntervalError, RuntimeError) as error:
        raise AirflowFailException(str(error)) from error
    print(f"This run carries {interval}, {interval.days} day{'s' * (interval.days > 1)}, through every layer")
    return {"start": str(interval.start), "end": str(interval.end)}


def _refuse_unknown(conf: dict[str, Any], known: tuple[str, ...], told: str) -> None:
    unknown = sorted(set(conf) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise AirflowFailException(f"unknown param {', '.join(unknown)}. This DAG takes {told}.{hint}")


def run_table(qualified: str, interval: dict[str, str], context: Any, outlet_events: Any) -> dict[str, Any]:
    """Carry the interval into one table; its version and row account go into the asset event, the whole report into XCom."""
    from dags import steps

    report = steps.run_table(qualified, Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"]))
    account = report.account
    outlet_events[asset(qualified)].extra = {
        "version": report.version,
        "status": report.status,
        "rows_in": account.rows_in,
        "published": account.published,
        "quarantined": account.quarantined,
        "duplicates": account.duplicates,
        "total_rows": report.total_rows,
    }
    print(f"{qualified}: {report.status} as version {report.version}; {account}")
    for warning in report.warnings:
        print(f"  {warning.severity}: {warning.reason}" + (f" ({warning.failed:,} rows)" if warning.failed else ""))
    return report.to_dict()


def parent(ti: Any) -> Any:
    """The run of this task as the OpenLineage provider names it, so that our events hang below it."""
    from airflow.providers.openlineage.plugins import macros

    from lineage.record import Parent

    return Parent(
        macros.lineage_job_namespace(),
        macros.lineage_job_name(ti),
        macros.lineage_run_id(ti),
        macros.lineage_root_job_namespace(ti),
        macros.lineage_root_job_name(ti),
        macros.lineage_root_run_id(ti),
    )


def make_release(interval: dict[str, str], context: Any) -> dict[str, Any]:
    """Pin what is published now; the release number and its versions go into XCom."""
    from dataclasses import asdict

    from dags import steps

    made = asdict(steps.make_release(Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"])))
    print(f"Release {made['number']} pins {len(made['tables'])} tables; features are known up to {made['horizon']}")
    return made


def serve(ti: Any) -> dict[str, Any]:
    """Serve the newest release, once it was compared with training."""
    from dags import show, steps

    served = steps.serve(parent=parent(ti))
    for view in served["views"]:
        print(f"{view['view']}: {view['status']}, {view['rows']:,} entities in {view['seconds']:.1f} s")
    if served["consistency"]:
        print(show.compared(served["consistency"]))
    return served


def create_training_set(params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
    """The manifest of a new training set, as JSON."""
    import json
    from dataclasses import asdict

    from features import training

    _refuse_unknown(dag_run.conf or {}, TRAINING_SET, ", ".join(TRAINING_SET))
    asked = {name: params[name] for name in ("release", "knowledge_time", "seed")}
    asked["allow_beyond_horizon"] = params.get("allow_beyond_horizon", False)
    made = training.create(training.from_request(params["labels"]), params["service"], params["name"], **asked, say=print)
    print(f"Training set {made.name}: {made.rows:,} rows, {len(made.features)} features of {made.service}")
    told: dict[str, Any] = json.loads(json.dumps(asdict(made)))  # an XCom has a word of its own for tuples
    return told


def check_leaks(name: str) -> dict[str, Any]:
    """The leak check's report, as JSON; its sentences go to the log, too."""
    from features import training

    found = training.check_leaks(name, say=print)
    for one in found.features:
        print(f"{one.feature}: {one.known:,} known, {one.changed:,} corrected since, {one.unpublished:,} published later, {one.future:,} of the future")
    print(". ".join(found.sentences))
    return found.to_dict()


def prepare_recommender(params: dict[str, Any], dag_run: Any) -> dict[str, str]:
    """The names of both training sets."""
    from dataclasses import asdict

    from models.recommender import job

    _refuse_unknown(dag_run.conf or {}, RECOMMENDER, ", ".join(RECOMMENDER))
    return asdict(job.prepare(params["release"], params["weeks"], params["seed"], say=print))


def train_recommender(sets: dict[str, str], params: dict[str, Any]) -> dict[str, Any]:
    """What the model is about, its figures included."""
    from models.recommender import job, model

    about = job.finish(model.fit(sets["learned"], params["seed"]), job.Sets(**sets))
    for name, one in about["quality"].items():
        print(f"{name}: recall@10 {one['recall']:.4f}, NDCG@10 {one['ndcg']:.4f}, over {one['customers']:,} customers")
    return about


def render_docs() -> str:
    """Render the Data Docs and return where they are."""
    from expectations import docs

    return str(docs.render())


def describe(table: Table) -> str:
    """A task's own page: what the contract says about its table."""
    columns = "\n".join(f"| `{c.name}` | {c.type.spark} | {c.doc} |" for c in table.columns)
    return f"**{table.doc}**: {table.grain}. Owner: {table.owner}.\n\n| column | type | meaning |\n|---|---|---|\n{columns}"
