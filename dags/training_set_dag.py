"""
### A training set, made on demand

Joins labels with the features of a service, as they were at each label's instant, and keeps what it takes to rebuild
the same rows.

| task | what happens |
|---|---|
| `create` | joins labels and features into `lake/training/<name>`; `lake/_training_sets/<name>.json` describes it |
| `check_leaks` | for every feature: how many values were unknowable at label time, by publish time and by event time |

**Trigger it** with a `name` that is not taken, the `labels` as one SELECT over the release's tables or as a file below
`$MILLRACE_LABELS`, and a `service`:
`{"name": "churn_2017", "service": "customer_value_v1", "labels": "SELECT customer_id, event_timestamp FROM ..."}`.
`release` defaults to the newest. With `knowledge_time` each label sees the release that was the newest at its instant.
`seed` is only recorded. Labels after the release's horizon are refused, unless `allow_beyond_horizon` is true:
then they are counted.

Both reports are in XCom. `millrace training-set rebuild <name>` rebuilds the rows; see `docs/training.md`.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from millrace import tasks

with DAG(
    "training_set",
    doc_md=__doc__,
    description="Join labels and a feature service to a reproducible training set",
    **tasks.ON_DEMAND,
    params={
        "name": Param(
            type="string",
            pattern="^[a-z][a-z0-9_]{0,99}$",
            title="Name",
            description="Small letters, digits and _, such as churn_2017",
        ),
        "labels": Param(
            type="string",
            minLength=1,
            title="Labels",
            description="One SELECT, or a file below $MILLRACE_LABELS, with event_timestamp and the service's keys",
        ),
        "service": Param(type="string", minLength=1, title="Feature service"),
        "release": tasks.release_param(),
        "knowledge_time": Param(
            False, type="boolean", title="Knowledge time", description="Each label sees the release of its own time"
        ),
        "seed": Param(None, type=["null", "integer"], title="Seed", description="Recorded in the manifest"),
        "allow_beyond_horizon": Param(
            False,
            type="boolean",
            title="Allow labels after the horizon",
            description="They get the features of the horizon, and are counted",
        ),
    },
) as dag:

    @task
    def create(params: Any = None, dag_run: Any = None, ti: Any = None) -> dict[str, Any]:
        """Join, write the rows, write the manifest."""
        return tasks.create_training_set(params, dag_run, ti)

    @task
    def check_leaks(manifest: Any) -> dict[str, Any]:
        """Report what was unknowable at label time."""
        return tasks.check_leaks(manifest["name"])

    check_leaks(create())
