"""
### The best products of every customer

A trained model ranks products for every customer who bought something in the 90 days before a release's horizon.

| task | what happens |
|---|---|
| `score` | ten products a customer are staged, audited, and published in one commit of `scores.recommender` |

**Trigger it** after the DAG `recommender`; no param is needed. A model and a release are scored once: a second run
finds the rows and writes nothing.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from contracts import catalog
from millrace import tasks

TABLE = "scores.recommender"

with DAG(
    "recommender_scores",
    doc_md=__doc__,
    description="Score every active customer: the best products by a model, as of a release",
    **tasks.ON_DEMAND,
    max_active_runs=1,
    params={
        "model": Param(None, type=["null", "string"], title="Model", description="Its name; the newest unless given"),
        "release": tasks.release_param(),
    },
) as dag:

    @task(outlets=[tasks.asset(TABLE)], doc_md=tasks.describe(catalog.table(TABLE)))
    def score(params: Any = None, outlet_events: Any = None, **context: Any) -> dict[str, Any]:
        """Score, stage, audit, publish."""
        from grocery.recommender import airflow_tasks

        return airflow_tasks.score(params, context, outlet_events)

    score()
