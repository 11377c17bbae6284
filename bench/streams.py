"""`make bench-streams`: all benchmarks that need Kafka, against a Kafka, a Redis and a PostgreSQL of their own, which
the tests' modules start. Takes a quarter of an hour; close other programs first.
"""

from __future__ import annotations

import subprocess
import sys

from tests.kafka import Kafka
from tests.servers import Postgres, Redis

ROUNDS = 3
"""Of the short ones."""


def main() -> int:
    """Run them one after the other; 0 if all end well."""
    failures = 0

    def run(module: str, *arguments: str, rounds: int = 1) -> None:
        nonlocal failures
        for _ in range(rounds):
            print(f"\n$ python -m bench.{module} {' '.join(arguments)}", flush=True)
            failures += (
                subprocess.run([sys.executable, "-m", f"bench.{module}", *arguments], check=False).returncode != 0
            )

    with Kafka() as kafka, Redis() as redis, Postgres() as postgres:
        for online in ("sqlite", redis.url, postgres.url):
            run("feature_path", "--kafka", kafka.url, "--online", online)
            run("instant_reads", "--kafka", kafka.url, "--online", online, rounds=ROUNDS)
        run("stream", "--kafka", kafka.url)
        run("dag_starts", "--kafka", kafka.url)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
