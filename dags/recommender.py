"""
### A recommender on the features

What will a customer buy in the next seven days? A model learns from the weeks before the last one of a release, through the feature service `recommendation_v1`, and is judged on the last.

| task | what happens |
|---|---|
| `prepare` | two training sets, each with a manifest: the weeks to learn from, and the week held back |
| `train` | gradient-boosted trees are fitted to the first, and judged on the second beside two baselines: what most customers buy, and what this customer bought before |

**Trigger it** after a run of `millrace`; no param is needed. The figures, and the training sets by name, are in the XCom of `train` and in
`$MILLRACE_HOME/models/recommender/<name>/about.json`. `millrace recommender ask 1` answers for one customer from the online store.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from dags import tasks

with DAG(
    "recommender",
    doc_md=__doc__,
    description="A release to a judged model that recommends products",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    tags=["millrace"],
    default_args={"owner": "ml-platform", **tasks.RETRIES, "execution_timeout": timedelta(hours=2)},
    params={
        "release": Param(None, type=["null", "integer"], minimum=1, title="Release", description="Its number; the newest unless given"),
        "weeks": Param(4, type="integer", minimum=1, maximum=52, title="Weeks", description="Weeks to learn from"),
        "seed": Param(7, type="integer", title="Seed", description="Of the model"),
    },
) as dag:

    @task
    def prepare(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        """Make the training sets, or find those that are there."""
        return tasks.prepare_recommender(params, dag_run)

    @task
    def train(sets: Any, params: Any = None) -> dict[str, Any]:
        """Fit, judge, keep."""
        return tasks.train_recommender(sets, params)

    train(prepare())
