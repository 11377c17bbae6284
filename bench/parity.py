"""`make parity`: run the main job on several engines, compare every table row by row, and write a certificate.

    python -m bench.parity --start 2017-01-01 --end 2017-02-01 --engines sail spark --write docs

Each engine gets its own lake and the same landing zone. Tables are equal if they have the same columns and are equal as
multisets of rows: NULLs, decimals, doubles to the last bit, instants to the microsecond. Only `_loaded_at`, the time of
a load, may differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import watch
from contracts import catalog
from contracts.model import STRING, TIMESTAMP, Column, Table
from etl.spark import jars
from lake import settings

CLOCK = ("_loaded_at",)
"""Columns with the time of a run, which are not compared."""
SHOWN = 3
"""Rows of a difference that the certificate quotes."""


@dataclass
class EngineRun:
    """What the main job took on one engine."""

    engine: str
    version: str
    session_s: float
    year_s: float
    day_s: float
    peak_memory_mib: int
    gpu: bool = False


@dataclass
class TableParity:
    """One table on all engines: rows and fingerprint per engine; `differences` quotes rows that only one of two engines
    has.
    """

    table: str
    rows: dict[str, int]
    fingerprint: dict[str, str]
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every engine has the same rows."""
        return len(set(self.fingerprint.values())) == 1 and not self.differences


def main() -> int:
    """Run, compare, write the certificate. Exit status 1 if a table differs."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", default="2017-01-01", help="first day (default 2017-01-01)")
    parser.add_argument(
        "--end", default="2018-01-02", help="day after the last (default 2018-01-02); the last day is a run of its own"
    )
    parser.add_argument(
        "--engines", nargs="+", default=["sail", "spark"], help="MILLRACE_ENGINE of each (default: sail spark)"
    )
    parser.add_argument("--write", type=Path, help="folder that gets parity.json and parity.md (default: the home)")
    options = parser.parse_args()
    home = settings.home() / "parity"
    land(home)
    runs = [one_run(home, engine, options.start, options.end) for engine in options.engines]
    tables = [compared(table, {run.engine: lake_of(home, run.engine) for run in runs}) for table in catalog.tables()]
    certificate = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "interval": [options.start, options.end],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "equal": all(table.equal for table in tables),
        "engines": [asdict(run) for run in runs],
        "tables": [{**asdict(table), "equal": table.equal} for table in tables],
    }
    folder = options.write or home
    (folder / "parity.json").write_text(json.dumps(certificate, indent=1) + "\n")
    (folder / "parity.md").write_text(page(certificate))
    print(page(certificate))
    print(f"Certificate: {folder / 'parity.json'}")
    return 0 if certificate["equal"] else 1


def land(home: Path) -> None:
    """Land the sample, once for all engines."""
    environment = {**os.environ, "MILLRACE_HOME": str(home)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace", "sample"],
        cwd=settings.CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise SystemExit(f"the sample could not be landed:\n{result.stdout}{result.stderr}")


def lake_of(home: Path, engine: str) -> Path:
    """The lake of an engine's tables."""
    return home / "".join(char if char.isalnum() else "-" for char in engine) / "lake"


def one_run(home: Path, engine: str, start: str, end: str, more: dict[str, str] | None = None) -> EngineRun:
    """Run the job on one engine in a child process, sampling its memory. `more` holds further environment variables."""
    print(f"{engine}: {start} to {end} ...", end=" ", flush=True)
    folder = lake_of(home, engine).parent
    jars.share(folder)
    environment = {
        "MILLRACE_HOME": str(folder),
        "MILLRACE_LAKE": str(folder / "lake"),
        "MILLRACE_LANDING": str(home / "landing"),
        "MILLRACE_ENGINE": engine,
        **(more or {}),
    }
    command = [sys.executable, "-W", "ignore", "-m", "bench.main_job", "--mode", "day", "--start", start, "--end", end]
    job, peak = watch.run(command, environment)
    run = EngineRun(
        engine,
        job["engine"][1],
        round(job["session_s"], 2),
        round(job["year"]["wall_s"], 1),
        round(job["day"]["wall_s"], 2),
        peak,
        job["gpu"],
    )
    print(f"{run.year_s:.1f} s, and one more day {run.day_s:.2f} s", flush=True)
    return run


def compared(table: Table, lakes: dict[str, Path]) -> TableParity:
    """Compare the table across lakes by fingerprint; where they differ, with the first rows that only one lake has."""
    fingerprints = {engine: fingerprint(table, lake / table.layer / table.name) for engine, lake in lakes.items()}
    result = TableParity(
        table.qualified,
        {engine: rows for engine, (rows, _) in fingerprints.items()},
        {engine: digest for engine, (_, digest) in fingerprints.items()},
    )
    first, *others = lakes
    for other in others:
        if fingerprints[first] != fingerprints[other]:
            result.differences += differences(
                table, {name: lakes[name] / table.layer / table.name for name in (first, other)}
            )
    return result


def fingerprint(table: Table, path: Path) -> tuple[int, str]:
    """The row count, and a hash of schema and rows that ignores their order: it sums both halves of each row's MD5."""
    import duckdb
    from deltalake import DeltaTable

    opened = DeltaTable(str(path))
    files = opened.file_uris()
    rows, low, high = 0, 0, 0
    if files:
        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            row = f"SELECT {row_text(table)} AS row FROM read_parquet(?, union_by_name = true)"
            query = f"SELECT count(*), sum(md5_number_lower(row)), sum(md5_number_upper(row)) FROM ({row})"
            rows, low, high = con.execute(query, [files]).fetchall()[0]
    schema = json.dumps(json.loads(opened.schema().to_json()), sort_keys=True)
    text = f"{schema}|{rows}|{low}|{high}"
    return rows, hashlib.sha256(text.encode()).hexdigest()


def row_text(table: Table) -> str:
    """SQL that renders a row as text, so that only equal rows have equal texts."""
    return (
        f"concat_ws(chr(31), {', '.join(_cell_text(column) for column in table.columns if column.name not in CLOCK)})"
    )


def _cell_text(column: Column) -> str:
    text = f"CAST({column.name} AS VARCHAR)"
    if column.type == TIMESTAMP:
        text = f"CAST(epoch_us({column.name}) AS VARCHAR)"
    if column.type == STRING:
        text = f"length({column.name}) || ':' || {column.name}"
    return f"coalesce({text}, chr(1))"


def differences(table: Table, paths: dict[str, Path]) -> list[str]:
    """Sentences about rows that only one of two engines has, and about different schemas."""
    import duckdb
    from deltalake import DeltaTable

    opened = {name: DeltaTable(str(path)) for name, path in paths.items()}
    (left, mine), (right, theirs) = opened.items()
    sentences = (
        []
        if mine.schema() == theirs.schema()
        else [f"the schemas differ: {mine.schema().to_json()} on {left}, {theirs.schema().to_json()} on {right}"]
    )
    columns = ", ".join(column.name for column in table.columns if column.name not in CLOCK)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for name, other in ((left, right), (right, left)):
            query = (
                f"SELECT {columns} FROM read_parquet(?) EXCEPT ALL SELECT {columns} FROM read_parquet(?) LIMIT {SHOWN}"
            )
            for row in con.execute(query, [opened[name].file_uris(), opened[other].file_uris()]).fetchall():
                sentences.append(f"only {name} has {dict(zip(columns.split(', '), map(str, row), strict=True))}")
    return sentences


def page(certificate: dict[str, Any]) -> str:
    """The certificate as Markdown."""
    engines = [run["engine"] for run in certificate["engines"]]
    lines = [
        "# Parity certificate",
        "",
        (
            f"Written by `make parity` at {certificate['made_at']} over {certificate['interval'][0]} to"
            f" {certificate['interval'][1]}, on {certificate['machine']['cpus']} CPUs. The last day is a"
            " separate run on top of the others."
        ),
        "",
        f"**{'Every table is equal on every engine, row by row.' if certificate['equal'] else 'TABLES DIFFER.'}**",
        "",
        "| engine | version | session start | all but the last day | one more day | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run['engine']} | {run['version']} | {run['session_s']:.1f} s | {run['year_s']:.1f} s | {run['day_s']:.2f}"
        f" s | {run['peak_memory_mib']:,} MiB |"
        for run in certificate["engines"]
    ]
    lines += ["", f"| table | rows | equal | fingerprint{'s' * (not certificate['equal'])} |", "|---|---|---|---|"]
    for table in certificate["tables"]:
        digests = dict.fromkeys(table["fingerprint"][engine][:16] for engine in engines)
        rows = dict.fromkeys(f"{table['rows'][engine]:,}" for engine in engines)
        lines.append(
            f"| {table['table']} | {' / '.join(rows)} | {'yes' if table['equal'] else 'NO'} |"
            f" {' / '.join(f'`{digest}`' for digest in digests)} |"
        )
    for table in certificate["tables"]:
        lines += [f"- {table['table']}: {difference}" for difference in table["differences"]]
    lines += [
        "",
        (
            "A fingerprint covers columns, types, comments and rows, with all cells except `_loaded_at`, and is"
            " independent of the order of the rows."
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
