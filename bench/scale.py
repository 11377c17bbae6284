"""`make scale`: time and memory of the main job over pasts of different lengths, and what one more day then costs.

The past is the sample repeated, each year 364 days before the next, with baskets and weeks of its own. So N years have
N times the rows of one year, and the last days are the same in all of them: whatever those days cost more after a
longer past is overhead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from bench import watch
from bench.__main__ import land, machine
from etl.spark import jars
from lake import settings

YEAR = timedelta(days=364)
"""Whole weeks, so that a Monday stays a Monday."""
WEEKS, BASKETS = 53, 10**12
FIRST, END = date(2017, 1, 1), date(2018, 1, 2)
LAST_DAYS = 5
"""Days that run one by one after the past; their median is reported."""


@dataclass
class Scale:
    """What N years took on an engine: seconds and MiB. `past_s` is the sum of `runs_s`, the runs over the past; `day_s`
    is one more day after it.
    """

    years: int
    engine: str
    duckdb_s: float
    duckdb_mib: int
    session_s: float
    past_s: float
    day_s: float
    mib: int
    rows_in: int
    runs_s: list[float]


def main() -> int:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--years", type=int, nargs="+", default=[1, 4, 16], help="lengths of the past (default: 1 4 16)"
    )
    parser.add_argument(
        "--run-days", type=int, default=YEAR.days, help="length of the runs over the past, in days (default: a year)"
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        default=["sail"],
        help="each MILLRACE_ENGINE to measure, one after the other (default: sail)",
    )
    options = parser.parse_args()
    home = settings.home() / "bench"
    land(home)
    scales = [scale for years in options.years for scale in measured(home, years, options.engine, options.run_days)]
    (home / "scale.json").write_text(
        json.dumps({"machine": machine(), "scales": [asdict(scale) for scale in scales]}, indent=1)
    )
    print(table(scales))
    print(f"All figures: {home / 'scale.json'}")
    return 0


def measured(home: Path, years: int, engines: list[str], run_days: int) -> list[Scale]:
    """Time the DuckDB script and each engine on a landing zone of `years` years, one after the other."""
    print(f"{years} years: landing ...", end=" ", flush=True)
    folder = home / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    multiply(home / "landing", folder / "landing", years)
    jars.share(folder)
    print("DuckDB script ...", end=" ", flush=True)
    duckdb_s, duckdb_mib = run_duckdb(folder)
    print(f"{duckdb_s:.1f} s", end="", flush=True)
    scales = []
    for engine in engines:
        print(f"; {engine} ...", end=" ", flush=True)
        job, mib = run_job(folder, engine, years, run_days)
        past, day = job["year"], job["day"]
        print(f"{past['wall_s']:.1f} s, and one more day {day['wall_s']:.2f} s", end="", flush=True)
        scales.append(
            Scale(
                years=years,
                engine=engine,
                duckdb_s=duckdb_s,
                duckdb_mib=duckdb_mib,
                session_s=job["session_s"],
                past_s=past["wall_s"],
                day_s=day["wall_s"],
                mib=mib,
                rows_in=past["rows_in"],
                runs_s=past["runs_s"],
            )
        )
    print()
    shutil.rmtree(folder)
    return scales


def run_duckdb(folder: Path) -> tuple[float, int]:
    """Seconds and peak MiB of the DuckDB script over the folder's landing zone."""
    command = [sys.executable, "-m", "bench.duckdb_baseline", "--landing", str(folder / "landing")]
    report, mib = watch.run([*command, "--lake", str(folder / "duckdb")], {"MILLRACE_HOME": str(folder)})
    shutil.rmtree(folder / "duckdb")
    return report["total_s"], mib


def run_job(folder: Path, engine: str, years: int, run_days: int) -> tuple[dict[str, Any], int]:
    """The figures of `bench.main_job --mode day` over `years` years, and its peak memory in MiB."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.main_job", "--mode", "day"]
    command += ["--start", str(FIRST - (years - 1) * YEAR), "--end", str(END)]
    command += ["--run-days", str(run_days), "--last-days", str(LAST_DAYS)]
    return watch.run(command, {"MILLRACE_HOME": str(folder), "MILLRACE_ENGINE": engine})


def multiply(source: Path, target: Path, years: int) -> None:
    """Write a landing zone whose last year is the sample. Snapshots land once, on the first day."""
    import duckdb

    first = FIRST - (years - 1) * YEAR
    with duckdb.connect() as con:
        for file in sorted(path for path in source.glob("*/*/*") if not path.name.startswith(".")):
            table, day = file.parent.parent.name, date.fromisoformat(file.parent.name)
            if table not in ("transactions", "promotions", "redemptions"):
                _copy(file, target / table / str(first) / file.name)
                continue
            for back in range(years):
                moved = target / table / str(day - back * YEAR) / f"{back}-{file.name}"
                if back == 0 and table == "redemptions":
                    _copy(file, moved)
                else:
                    _shift(con, table, file, moved, back, years)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _shift(con, table: str, source: Path, target: Path, back: int, years: int) -> None:  # type: ignore[no-untyped-def]
    """Write the file as it would be `back` years earlier: days shifted, with its own baskets and weeks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    earlier = f"- INTERVAL {back * YEAR.days} DAY"
    week = f"week + {WEEKS * (years - 1 - back)} AS week"
    changed = {
        "transactions": (
            f"basket_id + {back * BASKETS} AS basket_id, {week}, (transaction_timestamp {earlier})::TIMESTAMP AS"
            " transaction_timestamp"
        ),
        "promotions": week,
        "redemptions": f"(redemption_date::DATE {earlier})::DATE AS redemption_date",
    }[table]
    read = "read_csv" if source.suffix == ".csv" else "read_parquet"
    kind = "CSV" if source.suffix == ".csv" else "PARQUET, COMPRESSION zstd"
    con.execute(f"COPY (SELECT * REPLACE ({changed}) FROM {read}('{source}')) TO '{target}' (FORMAT {kind})")


def table(scales: list[Scale]) -> str:
    """The figures as a Markdown table; a day is compared with the engine's shortest past."""
    lines = [
        "",
        (
            "| years | rows in | DuckDB script | its peak | engine | session starts in | main job | against DuckDB |"
            " peak memory | one more day | against the shortest past |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for scale in scales:
        shortest = next(other for other in scales if other.engine == scale.engine)
        lines.append(
            f"| {scale.years} | {scale.rows_in / 1e6:.0f} M | {scale.duckdb_s:.1f} s | {scale.duckdb_mib:,} MiB |"
            f" {scale.engine} | {scale.session_s:.1f} s | {scale.past_s:.1f} s | {scale.past_s / scale.duckdb_s:.2f} |"
            f" {scale.mib:,} MiB |"
            f" {scale.day_s:.2f} s | {scale.day_s / shortest.day_s:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
