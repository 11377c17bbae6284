"""Time a message until its DAG run has started: `python -m bench.dag_starts --kafka host:port`.

Starts Airflow with `MILLRACE_EVENTS=on` and a lake writer in a home of its own, and sends one message at a time, each
when the runs of the former ones have ended. Also says what the time went to: into bronze, seen by the trigger, a run
made by Airflow's scheduler, and started by it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from random import Random
from typing import Any

from bench.stream import _produce, _topic, _writing
from etl.spark.server import free_port
from lake import delta
from millrace import services


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, help="brokers, host:port")
    parser.add_argument("--messages", type=int, default=20)
    options = parser.parse_args()
    rng, states = Random(1), []
    seconds: list[list[float]] = []  # per message: in bronze, event, run queued, run started, since it was produced
    with _topic(options.kafka) as topic:
        os.environ |= {
            "MILLRACE_EVENTS": "on",
            "MILLRACE_PORT": str(free_port()),
            "MILLRACE_FEATURES_PORT": str(free_port()),
        }
        try:
            running = services.up()
            with _writing():
                for _ in range(options.messages):
                    before = {run["dag_run_id"] for run in _runs(running)}
                    time.sleep(rng.uniform(1, 3))
                    produced = time.time()
                    _produce(options.kafka, topic, 1, None)
                    run = _ended(running, before)
                    moments = [_committed(), _event(running, run["dag_run_id"]), run["queued_at"], run["start_date"]]
                    seconds.append([datetime.fromisoformat(moment).timestamp() - produced for moment in moments])
                    states.append(run["state"])
        finally:
            services.down()
    print(f"{len(seconds)} messages, from producing; {states.count('success')} runs succeeded\n")
    print("| | median | p95 | longest |\n|---|---|---|---|")
    for stage, what in enumerate(("row in bronze", "event of the trigger", "run queued", "run started")):
        taken = sorted(message[stage] for message in seconds)
        figures = taken[len(taken) // 2], taken[int(len(taken) * 0.95)], taken[-1]
        print(f"| {what} | {' | '.join(f'{figure:.1f} s' for figure in figures)} |")
    return 0


def _committed() -> str:
    """When the row was committed to bronze, as an ISO time."""
    if (table := delta.open_table("bronze.purchases")) is None:
        raise RuntimeError("a run has started, and bronze has no table")
    return datetime.fromtimestamp(table.history(1)[0]["timestamp"] / 1000, UTC).isoformat()


def _event(running: services.Services, run: str) -> str:
    """When the asset event was made that started a run."""
    answer = running.api("GET", f"/api/v2/dags/millrace/dagRuns/{run}/upstreamAssetEvents", patience=60)
    moment: str = answer["asset_events"][0]["timestamp"]
    return moment


def _runs(running: services.Services) -> list[dict[str, Any]]:
    answer = running.api("GET", "/api/v2/dags/millrace/dagRuns?limit=100&order_by=-run_after", patience=60)
    runs: list[dict[str, Any]] = answer["dag_runs"]
    return runs


def _ended(running: services.Services, before: set[str]) -> dict[str, Any]:
    """The first new run, once all have ended."""
    while True:
        new = [run for run in _runs(running) if run["dag_run_id"] not in before]
        if new and all(run["state"] in ("success", "failed") for run in new):
            return new[-1]
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
