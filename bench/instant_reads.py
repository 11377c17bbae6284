"""Time a request for a customer with 3,000 events, 40 of a stream among them: `python -m bench.instant_reads --kafka
host:port [--online URL]`.

A bare read fetches what the store has of the customer, and computes nothing. Uses a home of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median, quantiles

from bench.feature_path import _produce, _project, _wait_until_read, _working

BASE, RECENT, KEYS = 2_960, 40, 997


def main() -> int:
    """Run the benchmark and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, help="brokers, host:port")
    parser.add_argument("--online", default="sqlite", help="as MILLRACE_ONLINE")
    parser.add_argument("--reads", type=int, default=2_000, help="of each kind, in turns")
    options = parser.parse_args()
    with _project(options.kafka, options.online, BASE) as topic, _working():
        _produce(options.kafka, topic, RECENT * KEYS, None, {})
        _wait_until_read(options.kafka, topic)
        print(f"| {options.online.partition(':')[0]} | p50 | p99 |\n|---|---|---|")
        reads = _reads()
        times: dict[str, list[float]] = {name: [] for name in reads}
        for _ in range(options.reads):
            for name, read in reads.items():
                started = time.perf_counter()
                read()
                times[name].append((time.perf_counter() - started) * 1e3)
        for name, own in times.items():
            print(f"| {name} | {median(own):.2f} ms | {quantiles(own, n=100)[98]:.2f} ms |")
    return 0


def _reads() -> dict[str, Callable[[], object]]:
    """What is timed."""
    from feast import FeatureStore

    from features.online import backends
    from features.online.store import STATE, Query, row_schema_of
    from features.streaming import tails
    from features.streaming.tail_store import pack_key
    from lake import settings

    store = FeatureStore(str(settings.CHECKOUT / "features" / "feast_repo"))
    service, view = store.get_feature_service("bench"), store.get_feature_view("customer_now")
    [tail] = tails.all_tails()
    session, schema, key = backends.configured().session(), row_schema_of(view), ("c0",)
    query = Query(session.reader(), view, tuple(feature.name for feature in view.features))

    def bare() -> object:
        reader = session.reader()
        reader.begin()
        try:
            return reader.rows(schema, (STATE,), [key]), reader.tail_rows(tail.name, [pack_key(key)])
        finally:
            reader.end()

    def request(customer: str) -> dict[str, object]:
        answer: dict[str, object] = store.get_online_features(service, [{"customer": customer}]).to_dict()
        return answer

    now = datetime.now(UTC)
    found = request("c0")
    print(f"{now:%H:%M} UTC: {found}", file=sys.stderr)
    return {
        "bare read, 3,000 events": bare,
        "read and fold, without Feast": lambda: query.rows([key]),
        "`get_online_features`, 3,000 events": lambda: request("c0"),
        "`get_online_features`, 40 events": lambda: request("c1"),
    }


if __name__ == "__main__":
    sys.exit(main())
