"""Time a message until its DAG run has started: `python -m bench.dag_starts --kafka host:port`.

Starts Airflow with `MILLRACE_EVENTS=on` and a lake writer in a home of its own, and sends one message at a time, each
when the runs of the former ones have ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import datetime
from random import Random
from typing import Any

from bench.stream import _produce, _topic, _writing
from etl.spark.server import free_port
from millrace import services


def main() -> int:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, help="brokers, host:port")
    parser.add_argument("--messages", type=int, default=20)
    options = parser.parse_args()
    rng, seconds, states = Random(1), [], []
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
                    seconds.append(datetime.fromisoformat(run["start_date"]).timestamp() - produced)
                    states.append(run["state"])
        finally:
            services.down()
    seconds.sort()
    print(
        f"{len(seconds)} messages, from producing to the start of the DAG run: median"
        f" {seconds[len(seconds) // 2]:.1f} s, p95 {seconds[int(len(seconds) * 0.95)]:.1f} s, longest"
        f" {seconds[-1]:.1f} s; {states.count('success')} runs succeeded"
    )
    return 0


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
