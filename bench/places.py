"""Time the places of the online store: `python -m bench.places --online sqlite redis://127.0.0.1:6379/0
postgresql://...`, with MILLRACE_HOME set to a home in which the sample has a release.

All views of the newest release are loaded as of the day before its horizon, then the next day as what changed; then 1
and 100 entities are read with all features of `recommendation_v1` through the SDK. What is online at a server before is
replaced, so give it a database of its own. Medians of three loads.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from dataclasses import replace
from datetime import date, timedelta
from statistics import median
from urllib.parse import urlsplit

from bench.serving import CALLS, elsewhere, pairs, sdk
from features import registry
from features.online import backends
from features.online.materialize import load
from lake import release

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.places", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    known = pairs()
    loads, reads = [], []
    for url in options.online:
        with elsewhere():
            os.environ["MILLRACE_ONLINE"] = url
            loads.append(timed_loads(url))
            reads += timed_reads(url, known)
            backends.configured().remove_all()
    print(
        "| place | all entities | time | entities/s | what changed in a day | time | of all"
        " |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(loads))
    print("\n| place | entities | p50 | p99 |\n|---|---|---|---|")
    print("\n".join(reads))


def timed_loads(url: str) -> str:
    """A line of the first table."""
    newest = release.read()
    before = str(date.fromisoformat(newest.horizon) - timedelta(days=1))
    registry.apply()
    views, whole, changed, rows, seen = registry.online_views(registry.open_store()), [], [], 0, 0
    for _ in range(ROUNDS):
        backends.configured().remove_all()
        started = time.perf_counter()
        rows = sum(one.rows for one in load(replace(newest, horizon=before), views, "bench"))
        whole.append(time.perf_counter() - started)
        started = time.perf_counter()
        seen = sum(one.loaded for one in load(newest, views, "bench"))
        changed.append(time.perf_counter() - started)
    line = f"| {urlsplit(url).scheme or url} | {rows:,} | {median(whole):.2f} s | {rows / median(whole):,.0f} |"
    return f"{line} {seen:,} | {median(changed):.2f} s | {median(changed) / median(whole):.0%} |"


def timed_reads(url: str, known: list[tuple[int, int]]) -> list[str]:
    """Lines of the second table."""
    import random

    rng, read, lines = random.Random(7), sdk(), []
    for count, calls in CALLS.items():
        seconds = []
        for call in range(calls + 20):
            entities = rng.sample(known, count)
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
