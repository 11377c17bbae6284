"""
### A recommender on the features

What will a customer buy in the next seven days? Models learn through the feature service `recommendation_v1`, and each
is evaluated on the week after those that it learned from.

| task | what happens |
|---|---|
| `prepare` | two training sets, each with a manifest: the weeks to learn from, and the weeks held back |
| `train` | LambdaMART is fitted for each week held back and evaluated beside six baselines; the last model is kept |
| `track` | the model's run goes to MLflow: parameters, figures with intervals, signature, training sets and tables |

**Trigger it** after a run of `millrace`; no param is needed. The figures, and the training sets by name, are in the
XCom of `train` and in `$MILLRACE_HOME/models/recommender/<name>/about.json`. `millrace recommender ask 1` answers for
one customer from the online store, and the DAG `recommender_scores` for all.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from millrace import tasks

with DAG(
    "recommender",
    doc_md=__doc__,
    description="Train and evaluate a model that recommends products",
    **tasks.ON_DEMAND,
    max_active_runs=1,
    params={
        "release": tasks.release_param(),
        "weeks": Param(
            5, type="integer", minimum=1, maximum=52, title="Weeks", description="Weeks that each model learns from"
        ),
        "held_back": Param(
            4,
            type="integer",
            minimum=1,
            maximum=52,
            title="Held back",
            description="Weeks held back, each judged by a model of the weeks before it",
        ),
        "seed": Param(7, type="integer", title="Seed", description="Of the model"),
    },
) as dag:

    @task
    def prepare(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
        """Create the training sets, or reuse existing ones."""
        from grocery.recommender import airflow_tasks

        return airflow_tasks.prepare(params, dag_run)

    @task
    def train(sets: Any, params: Any = None, ti: Any = None) -> dict[str, Any]:
        """Fit, evaluate, keep."""
        from grocery.recommender import airflow_tasks

        return airflow_tasks.train(sets, params, ti)

    @task
    def track(about: Any) -> str:
        """Create the run in MLflow. The model is already kept: if the server is down, clear this task alone."""
        from grocery.recommender import airflow_tasks

        return airflow_tasks.track(about)

    track(train(prepare()))
