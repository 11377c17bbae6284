"""
### The best products of every customer

A trained model ranks products for every customer who bought something in the 90 days before a release's horizon.

| task | what happens |
|---|---|
| `score` | ten products a customer, checked, then published in one commit of the Delta table `<lake>/scores/recommender` |

**Trigger it** after the DAG `recommender`; no param is needed. A model and a release are scored once: a second run finds the rows and writes nothing.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from dags import tasks

with DAG(
    "recommender_scores",
    doc_md=__doc__,
    description="A model and a release to the best products of every customer",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["millrace"],
    default_args={"owner": "ml-platform", **tasks.RETRIES, "execution_timeout": timedelta(hours=2)},
    params={
        "model": Param(None, type=["null", "string"], title="Model", description="Its name; the newest unless given"),
        "release": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Release",
            description="Its number; the newest unless given",
        ),
    },
) as dag:

    @task
    def score(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        """Score, check, publish."""
        return tasks.score_customers(params, dag_run)

    score()
