"""The state of a home, read with delta-rs and DuckDB only, and the comparison of two states.

A state is each table as a multiset of rows, the row account of each commit, each release with the rows it pins, and
each training set with its bytes. Left out is what differs between any two runs: `_loaded_at` (also inside a rejected
row), `quarantined_at`, `run_id`, and version and release numbers, since a killed compaction may have taken one. Of
consecutive releases with the same rows only the first one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from bench import parity
from contracts import catalog
from lake.delta import MAINTENANCE_RUNS, METADATA_KEY

EMPTY = "no rows"
LAYERS = ("bronze", "silver", "gold", "quarantine")
FIRST_COMMIT = f"_delta_log/{0:020}.json"
ACCOUNT = ("rows_in", "published", "quarantined", "duplicates")
Digests = dict[str, str]
"""Table -> number and digest of its rows."""


@dataclass(frozen=True)
class Release:
    """A release and the rows of the versions that it pins."""

    number: int
    horizon: str
    tables: Digests

    @property
    def content(self) -> tuple[str, Digests]:
        """What must be equal in both homes."""
        return self.horizon, self.tables


@dataclass
class HomeState:
    """The state at one moment. `problems` are unreadable files and accounts that do not add up."""

    tables: Digests = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, list[str]] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)
    training: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def distinct_releases(self) -> list[Release]:
        """The releases without those that equal the one before."""
        return [next(same) for _, same in groupby(self.releases, key=lambda release: release.content)]


class HomeReader:
    """Reads the state of one home. Digests of unchanged files are cached, but every file must be there at each read."""

    def __init__(self, home: Path) -> None:
        self.lake, self.connection = home / "lake", duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self._files: dict[tuple[str, int], list[Path]] = {}
        self._digests: dict[tuple[Any, ...], str] = {}
        self._accounts: dict[Path, tuple[str, dict[str, int]] | None] = {}

    def read(self) -> HomeState:
        """Read the whole state; `problems` says what cannot be read or does not add up."""
        result = HomeState()
        for name in self._names():
            with _noting(result.problems, name):
                version = DeltaTable(str(self._path(name))).version()
                for part in self._parts(name):
                    result.versions[f"{name}{part}"] = version
                    result.tables[f"{name}{part}"] = self._digest(name, version, part)
                result.accounts[name] = sorted(self._table_accounts(name, result.problems))
        for path in sorted((self.lake / "_releases").glob("[0-9]*.json"), key=lambda path: int(path.stem)):
            with _noting(result.problems, f"release {path.stem}"):
                result.releases.append(self._release(path))
        for path in sorted((self.lake / "_training_sets").glob("[a-z]*.json")):
            with _noting(result.problems, f"training set {path.stem}"):
                result.training[path.stem] = self._training_set(path, result.problems)
        return result

    def forget(self) -> None:
        """Forget all cached digests, so that the next read opens every file again."""
        self._files.clear()
        self._digests.clear()
        self._accounts.clear()

    def leftover_files(self) -> int:
        """How many parquet files below the tables belong to no version: what killed runs left behind."""
        count = 0
        for name in self._names():
            versions = range(DeltaTable(str(self._path(name))).version() + 1)
            needed = {path for version in versions for path in self._version_files(name, version)}
            there = {path for path in self._path(name).rglob("*.parquet") if path.parent.name != "_delta_log"}
            count += len(there - needed)
        return count

    def _names(self) -> list[str]:
        """Tables that have a first commit."""
        folders = [folder for layer in LAYERS for folder in sorted((self.lake / layer).glob("*"))]
        return [f"{path.parent.name}.{path.name}" for path in folders if (path / FIRST_COMMIT).exists()]

    def _path(self, name: str) -> Path:
        return self.lake.joinpath(*name.split("."))

    @staticmethod
    def _parts(name: str) -> tuple[str, ...]:
        """A run commits to a quarantine table once for each layer that rejects rows, so each layer counts by itself."""
        return (" of bronze", " of silver", " of gold") if name.startswith("quarantine.") else ("",)

    def _release(self, path: Path) -> Release:
        content = json.loads(path.read_text())
        tables = {name: self._digest(name, version) for name, version in content["tables"].items()}
        return Release(content["number"], content["horizon"], tables)

    def _version_files(self, name: str, version: int) -> list[Path]:
        if (name, version) not in self._files:
            opened = DeltaTable(str(self._path(name)), version=version)
            self._files[name, version] = sorted(Path(uri.removeprefix("file://")) for uri in opened.file_uris())
        return self._files[name, version]

    def _digest(self, name: str, version: int, part: str = "") -> str:
        files = self._version_files(name, version)
        stats = [path.stat() for path in files]
        key = (part, *((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True)))
        if key not in self._digests:
            paths = [str(path) for path in files]
            self._digests[key] = self._quarantined(paths, part) if part else self._published(name, paths)
        return self._digests[key]

    def _published(self, name: str, files: list[str]) -> str:
        text = parity.row_text(catalog.table(name))
        sums = "count(*), sum(md5_number_lower(row)), sum(md5_number_upper(row))"
        query = f"SELECT {sums} FROM (SELECT {text} AS row FROM read_parquet(?))"
        count, low, high = self.connection.execute(query, [files]).fetchall()[0] if files else (0, 0, 0)
        return _summary(count, f"{low} {high}")

    def _quarantined(self, files: list[str], part: str) -> str:
        columns = "day::VARCHAR, file, list_sort(reasons)::VARCHAR, row"
        query = f"SELECT {columns} FROM read_parquet(?) WHERE layer = ?"
        rows = self.connection.execute(query, [files, part.split()[-1]]).fetchall() if files else []
        return _summary(len(rows), repr(sorted(repr((*others, _without_clock(row))) for *others, row in rows)))

    def _table_accounts(self, name: str, problems: list[str]) -> Iterator[str]:
        """The row account of each commit that published rows."""
        for path in sorted((self._path(name) / "_delta_log").glob("0*[0-9].json")):
            if path not in self._accounts:
                self._accounts[path] = _account(path)
            if (known := self._accounts[path]) is None:
                continue
            text, account = known
            if account["rows_in"] != account["published"] + account["quarantined"] + account["duplicates"]:
                problems.append(f"{name}: the account of {path.name} does not add up: {account}")
            yield text

    def _training_set(self, path: Path, problems: list[str]) -> str:
        made = json.loads(path.read_text())
        table, labels = self.lake / "training" / path.stem, path.with_name(f"{path.stem}.labels.parquet")
        label_rows = self.connection.execute("SELECT count(*) FROM read_parquet(?)", [str(labels)]).fetchall()[0][0]
        content = b""
        with suppress(FileNotFoundError):
            content = (table / "data.zst.parquet").read_bytes()
        if label_rows != made["rows"]:
            problems.append(f"training set {path.stem}: {label_rows} labels, {made['rows']} in the manifest")
        if hashlib.sha256(content).hexdigest() != made["data"]["file"] or DeltaTable(str(table)).file_uris() == []:
            return f"lost, {made['data']['digest']}"
        return f"{made['rows']} rows, {made['data']['file']}"


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    """Record an error inside the block as a problem."""
    try:
        yield
    except Exception as error:
        message = next(iter(str(error).splitlines()), "")
        problems.append(f"{what} cannot be read: {type(error).__name__}: {message}")


def _summary(count: int, content: str) -> str:
    return f"{count} rows, {hashlib.sha256(content.encode()).hexdigest()[:16]}" if count else EMPTY


def _account(commit: Path) -> tuple[str, dict[str, int]] | None:
    """Changed days and row account of a commit; None when it published no rows, and for quarantine tables."""
    actions = [json.loads(line) for line in commit.read_text().splitlines() if line]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    if METADATA_KEY not in info:
        return None
    state = json.loads(info[METADATA_KEY])
    if state["run_id"] in MAINTENANCE_RUNS or not state.get("account"):
        return None
    account = {name: state["account"][name] for name in ACCOUNT}
    return f"{state['touched']} {account}", account


def _without_clock(row: str) -> str:
    return str({name: value for name, value in sorted(json.loads(row).items()) if name != "_loaded_at"})


def kill_violations(before: HomeState, control: HomeState, now: HomeState, dropped_table: str = "") -> list[str]:
    """What is wrong right after a kill, before any repair.

    Each table, release and training set must be as it was before the operation, or as it is in the control after it.
    The table of the training set `dropped_table` was lost before the operation, which puts it back: until it has, the
    set cannot be read.
    """
    lost = f"training set {dropped_table} cannot be read"
    problems = [problem for problem in now.problems if not (dropped_table and problem.startswith(lost))]
    for name in sorted({*before.tables, *now.tables}):
        was, becomes = before.tables.get(name, EMPTY), control.tables.get(name, EMPTY)
        rows = now.tables.get(name, "gone")
        if rows not in (was, becomes):
            problems.append(f"{name}: {rows}; before the operation {was}, in the control {becomes}")
        elif before.versions.get(name) == now.versions.get(name) and rows != was:
            problems.append(f"{name} changed from {was} to {rows} without a commit")
    contents = [release.content for release in control.distinct_releases]
    for at, release in enumerate(now.distinct_releases):
        if at >= len(contents) or release.content != contents[at]:
            problems.append(f"release {release.number} is none of the control's")
    numbers = {release.number for release in now.releases}
    problems += [f"release {release.number} is gone" for release in before.releases if release.number not in numbers]
    for name in sorted({*before.training, *now.training} - {dropped_table}):
        ours, theirs = now.training.get(name, "gone"), control.training.get(name)
        if ours != theirs:
            problems.append(f"training set {name}: {ours}, in the control {theirs}")
    return problems


def differences(control: HomeState, now: HomeState) -> list[str]:
    """How the state after the rerun differs from the control's."""
    problems = list(now.problems)
    for what, theirs, ours in (
        ("", control.tables, now.tables),
        ("accounts of ", control.accounts, now.accounts),
        ("training set ", control.training, now.training),
    ):
        for name in sorted({*theirs, *ours}):
            mine, other = ours.get(name), theirs.get(name)
            if mine != other:
                problems.append(f"{what}{name}: {_only(mine, other)}, in the control {_only(other, mine)}")
    mine, others = now.distinct_releases, control.distinct_releases
    if len(mine) != len(others):
        problems.append(f"{len(mine)} distinct releases, in the control {len(others)}")
    for at, (release, other) in enumerate(zip(mine, others, strict=False), 1):
        if release.content != other.content:
            odd = [name for name in sorted(release.tables) if release.tables[name] != other.tables.get(name)]
            horizons = f"horizon {release.horizon}, in the control {other.horizon}"
            problems.append(f"release {at}: {horizons}; other rows in {', '.join(odd) or 'no table'}")
    return problems


def _only(mine: Any, other: Any) -> Any:
    """Of two lists, what only the first has."""
    if isinstance(mine, list) and isinstance(other, list):
        return [item for item in mine if item not in other] or f"{len(mine)} of them"
    return mine
