"""Time the backends of the online store: `python -m bench.online_stores --online sqlite redis://127.0.0.1:6379/0
postgresql://...`, with MILLRACE_HOME set to a home that has a release of the sample.

Loads all views of the newest release as of the day before its horizon, then the changes of the next day; then reads 1
and 100 entities with all features of `recommendation_v1` through the SDK. It replaces what the server has online, so
give it a database of its own. Load times are medians of three.
"""

from __future__ import annotations

import argparse
import os
import random
import time
import warnings
from dataclasses import replace
from datetime import date, timedelta
from statistics import median
from urllib.parse import urlsplit

from bench.serving import CALLS, pairs, sdk, temporary_home
from features import registry
from features.online import backends
from features.online.materialize import load
from lake import release

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.online_stores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--online",
        nargs="+",
        default=["sqlite"],
        metavar="URL",
        help="each MILLRACE_ONLINE to measure (default: sqlite)",
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    entities = pairs()
    loads, reads = [], []
    for url in options.online:
        with temporary_home():
            os.environ["MILLRACE_ONLINE"] = url
            loads.append(timed_loads(url))
            reads += timed_reads(url, entities)
            backends.configured().remove_all()
    print(
        "| backend | all entities | time | entities/s | changed in a day | time | share of all"
        " |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(loads))
    print("\n| backend | entities | p50 | p99 |\n|---|---|---|---|")
    print("\n".join(reads))


def timed_loads(url: str) -> str:
    """A line of the first table."""
    newest = release.read()
    before = str(date.fromisoformat(newest.horizon) - timedelta(days=1))
    registry.apply()
    views = registry.online_views(registry.open_store())
    full_seconds, change_seconds, rows, changed = [], [], 0, 0
    for _ in range(ROUNDS):
        backends.configured().remove_all()
        started = time.perf_counter()
        rows = sum(report.rows for report in load(replace(newest, horizon=before), views, "bench"))
        full_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        changed = sum(report.loaded for report in load(newest, views, "bench"))
        change_seconds.append(time.perf_counter() - started)
    full, change = median(full_seconds), median(change_seconds)
    line = f"| {urlsplit(url).scheme or url} | {rows:,} | {full:.2f} s | {rows / full:,.0f} |"
    return f"{line} {changed:,} | {change:.2f} s | {change / full:.0%} |"


def timed_reads(url: str, pool: list[tuple[int, int]]) -> list[str]:
    """Lines of the second table."""
    rng, read, lines = random.Random(7), sdk(), []
    for count, calls in CALLS.items():
        seconds = []
        for call in range(calls + 20):
            entities = rng.sample(pool, count)
            started = time.perf_counter()
            read(entities)
            if call >= 20:
                seconds.append(time.perf_counter() - started)
        seconds.sort()
        lines.append(
            f"| {urlsplit(url).scheme or url} | {count} | {seconds[len(seconds) // 2] * 1e3:.2f} ms |"
            f" {seconds[len(seconds) * 99 // 100] * 1e3:.2f} ms |"
        )
    return lines


if __name__ == "__main__":
    main()
