"""`make chaos-stream`: kill feature workers, the lake writer, releases, the broker and the store while messages flow,
and compare what is served with a loop in Python.

    python -m tests.chaos.streams --kills 200 --seed 1 --store sqlite

Exit status 1 on any difference. The folder of a run that differs is kept: home, logs, all messages are in its broker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.chaos.streams.run import Report, Run
from tests.kafka import Kafka
from tests.projects import ARCADE
from tests.servers import Postgres, Redis, Server

STORES: dict[str, type[Server] | None] = {"sqlite": None, "redis": Redis, "postgres": Postgres}


def main(arguments: list[str] | None = None) -> int:
    """0 when every value was right, 1 otherwise."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="millrace-chaos-stream-"))
    print(f"seed {options.seed}, {options.kills} kills on {options.store} in {folder}", flush=True)
    kind = STORES[options.store]
    with Kafka() as kafka:
        store = kind() if kind else None
        if store:
            store.start()
        try:
            _isolate(folder, kafka, store)
            report = Run(folder, options.seed, kafka, store, lambda text: print(text, flush=True)).play(options.kills)
        finally:
            if store:
                store.remove()
    print(page(report, options.seed, options.store))
    if options.report:
        options.report.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if report.differences:
        print(f"kept: {folder}")
    elif not options.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if report.differences else 0


def _isolate(folder: Path, kafka: Kafka, store: Server | None) -> None:
    """Nothing of the caller's environment leaks in."""
    for name in [name for name in os.environ if name.startswith(("MILLRACE_", "AWS_", "OPENLINEAGE_"))]:
        del os.environ[name]
    os.environ |= {
        "MILLRACE_PROJECT": str(ARCADE),
        "MILLRACE_HOME": str(folder / "home"),
        "MILLRACE_KAFKA": kafka.url,
        "MILLRACE_ONLINE": store.url if store else "sqlite",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.streams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=200, help="stop after so many faults (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="what comes, what is hit (default: 1)")
    parser.add_argument("--store", choices=[*STORES], default="sqlite", help="the online store (default: sqlite)")
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary one)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")
    return parser


def page(report: Report, seed: int, store: str) -> str:
    """The figures for people."""
    hit = Counter(f"{fault.what} ({fault.how})" for fault in report.faults)
    recoveries = sorted(report.recoveries)
    recovered = (
        f"median {statistics.median(recoveries):.1f} s, longest {recoveries[-1]:.1f} s, of {len(recoveries)}"
        if recoveries
        else "not measured"
    )
    lines = (
        f"\n{len(report.faults)} faults in {report.seconds:.0f} s on {store}, seed {seed}:"
        f" {len(report.differences)} differences",
        f"  hit:      {', '.join(f'{count} {name}' for name, count in hit.most_common())}",
        f"  messages: {report.messages:,} ({', '.join(f'{kind} {count:,}' for kind, count in report.kinds.items())})",
        f"  releases: {report.releases} served while messages came, {report.rollbacks} times an older one",
        f"  online:   {report.values:,} values compared with a loop; {report.requests:,} requests meanwhile,"
        f" {report.refused} refused",
        f"  recovery: from kill -9 of a worker until a message of each partition was servable: {recovered}",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
