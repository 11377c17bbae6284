"""
### From the landing zone to served features

One run carries an interval of whole days, `[start, end)` in UTC, through every layer:

| group | what happens |
|---|---|
| `databases` | new rows of databases land as files, where a bronze table has one |
| `bronze` | new files of the landing zone are loaded, typed, each row with its file and load time |
| `silver` | rows are cleaned, deduplicated and keyed; money becomes exact |
| `gold` | feature rows, right at every midnight, idle days included |
| `serve` | a **release** pins the tables' versions; it is served at once, if a sample equals what training sees |

Every table is **staged**, **audited** with Great Expectations, then **published** in one Delta commit. Rows that break
a critical check go to `quarantine.<table>` with the reasons; a critical failure publishes nothing. *Rows in =
published + quarantined + duplicates*, or the task fails.

**Trigger it** with `start` and `end` as ISO dates (`end` is exclusive), such as
`{"start": "2017-01-01", "end": "2018-01-02"}`. A day that was processed before can be run again: new or late files are
loaded, and what did not change is left alone. **Backfill** it from the UI or with `POST /api/v2/backfills`. The **daily
schedule** is off unless the environment variable `MILLRACE_SCHEDULE` is `on`: a sample ended long ago. With
`MILLRACE_EVENTS=on`, **new data** starts it: landed files, or messages in bronze.

Each table is an **Asset**: its events carry the Delta version and the row account. The log of a failed task names the
table, the file and the remedy. Audit reports are in `$MILLRACE_HOME/data_docs`, lineage events in
`$MILLRACE_HOME/lineage`.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TaskGroup, task

from contracts import catalog, project
from contracts.model import Layer
from lake import settings
from millrace import pipeline, tasks

SCHEDULED = settings.is_scheduled()
FIRST, LAST = project.current().schedule
DAILY = CronDataIntervalTimetable("0 0 * * *", timezone="UTC") if SCHEDULED or LAST else None
DATE = ["null", "string"]

with DAG(
    "millrace",
    doc_md=__doc__,
    description="Landing zone to bronze, silver, gold and Feast, for the days [start, end)",
    schedule=tasks.schedule(DAILY),
    start_date=FIRST,
    end_date=None if SCHEDULED else LAST,
    catchup=False,
    max_active_runs=1,
    tags=["millrace"],
    default_args={"owner": "data-platform", **tasks.RETRIES, "execution_timeout": timedelta(hours=2)},
    params={
        "start": Param(None, type=DATE, format="date", title="Start", description="First day, such as 2017-01-01"),
        "end": Param(
            None, type=DATE, format="date", title="End", description="Day after the last one, such as 2018-01-02"
        ),
    },
) as dag:

    @task
    def pull(qualified: str, params: Any = None, dag_run: Any = None) -> None:
        """Land the new rows of a database."""
        tasks.pull(qualified, params, dag_run)

    @task(trigger_rule="none_failed")
    def check_interval(params: Any = None, dag_run: Any = None) -> dict[str, str]:
        """Reject an interval without data before anything is written."""
        return tasks.check_interval(params, dag_run)

    @task
    def run_table(qualified: str, interval: Any, outlet_events: Any = None, **context: Any) -> dict[str, Any]:
        """Plan, stage, audit and publish one table."""
        return tasks.run_table(qualified, interval, context, outlet_events)

    @task
    def release(interval: Any, **context: Any) -> dict[str, Any]:
        """Pin the versions of all tables, for training and serving."""
        return tasks.make_release(interval, context)

    @task
    def materialize(ti: Any = None) -> dict[str, Any]:
        """Load the release into the online store and compare a sample with training.

        Readers switch to all of it at once; after a mismatch they keep the previous release.
        """
        return tasks.serve(ti)

    @task(trigger_rule="all_done")
    def data_docs() -> str:
        """Render the audits of this run as pages, also when a table failed."""
        return tasks.render_docs()

    interval = check_interval()
    if pulled := pipeline.pulled_tables():
        with TaskGroup("databases", tooltip="Rows of databases"):
            for table in pulled:
                pull.override(task_id=table.name)(table.qualified) >> interval
    published: dict[str, Any] = {}
    for layer in catalog.LAYERS:
        with TaskGroup(str(layer), tooltip=f"{layer} tables"):
            for table in catalog.tables(layer):
                step = run_table.override(
                    task_id=table.name, outlets=[tasks.asset(table.qualified)], doc_md=tasks.describe(table)
                )(table.qualified, interval)
                for upstream in pipeline.needs(table):
                    published[upstream] >> step
                published[table.qualified] = step

    with TaskGroup("serve", tooltip="Feast"):
        released = release(interval)
        (
            [published[table.qualified] for layer in (Layer.SILVER, Layer.GOLD) for table in catalog.tables(layer)]
            >> released
            >> materialize()
        )
    list(published.values()) >> data_docs()
