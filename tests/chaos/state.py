"""What a home holds, read with delta-rs and DuckDB and none of Millrace: tables as multisets of rows, row accounts, releases, training sets; and how two homes differ.

Left out of a comparison is what no two runs agree on: when a row was loaded or rejected (`_loaded_at`, `quarantined_at`, also inside a rejected row), the id of the run (`run_id`), versions and
numbers (a killed compaction may have taken one), and of two releases in a row that hold the same rows, the second one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable

from bench import parity
from contracts import catalog
from etl.delta import METADATA_KEY, TIDYING

EMPTY = "no rows"
ACCOUNT = ("rows_in", "published", "quarantined", "duplicates")
Held = dict[str, str]
"""Table -> digest of its rows."""


@dataclass(frozen=True)
class Release:
    """A release, with the rows that its versions hold."""

    number: int
    horizon: str
    tables: Held

    @property
    def content(self) -> tuple[str, Held]:
        """What has to be the same in another home."""
        return self.horizon, self.tables


@dataclass
class Seen:
    """A home at one moment. `problems` are what can be wrong in a home by itself: what cannot be read, accounts that do not add up."""

    tables: Held = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, list[str]] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)
    training: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def differing_releases(self) -> list[Release]:
        """Without those that hold what the one before holds."""
        return [one for at, one in enumerate(self.releases) if not at or one.content != self.releases[at - 1].content]


class Observer:
    """Looks into one home again and again; files that are the same as before are not read again, but looked for."""

    def __init__(self, home: Path) -> None:
        self.lake, self.connection = home / "lake", duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self._files: dict[tuple[str, int], list[Path]] = {}
        self._digests: dict[tuple[Any, ...], str] = {}
        self._accounts: dict[Path, tuple[str, dict[str, int]] | None] = {}

    def look(self) -> Seen:
        """All of it."""
        seen = Seen()
        for name in self._names():
            with self._problem(seen, name):
                version = DeltaTable(str(self._path(name))).version()
                seen.versions[name], seen.tables[name] = version, self._digest(name, version)
                seen.accounts[name] = sorted(self._table_accounts(name, seen.problems))
        for path in sorted((self.lake / "_releases").glob("[0-9]*.json"), key=lambda path: int(path.stem)):
            with self._problem(seen, f"release {path.stem}"):
                plain = json.loads(path.read_text())
                seen.releases.append(
                    Release(plain["number"], plain["horizon"], {name: self._digest(name, version) for name, version in plain["tables"].items()})
                )
        for path in sorted((self.lake / "_training_sets").glob("[a-z]*.json")):
            with self._problem(seen, f"training set {path.stem}"):
                seen.training[path.stem] = self._training_set(path, seen.problems)
        return seen

    def forget(self) -> None:
        """Read everything anew from here on."""
        self._files.clear()
        self._digests.clear()

    def unneeded(self) -> int:
        """Parquet files below the tables that no version names, and whatever lies in a stage: what kills left."""
        needed = {
            path for name in self._names() for version in range(DeltaTable(str(self._path(name))).version() + 1) for path in self._version_files(name, version)
        }
        there = {path for name in self._names() for path in self._path(name).rglob("*.parquet") if "_delta_log" not in path.parts}
        return len(there - needed)

    def _names(self) -> list[str]:
        """Tables with a first commit."""
        logs = sorted(log for layer in ("bronze", "silver", "gold", "quarantine") for log in (self.lake / layer).glob("*/_delta_log"))
        return [f"{log.parent.parent.name}.{log.parent.name}" for log in logs if (log / f"{0:020}.json").exists()]

    def _path(self, name: str) -> Path:
        return self.lake.joinpath(*name.split("."))

    @staticmethod
    def _problem(seen: Seen, what: str) -> Any:
        return _Noted(seen.problems, what)

    def _version_files(self, name: str, version: int) -> list[Path]:
        if (name, version) not in self._files:
            opened = DeltaTable(str(self._path(name)), version=version)
            self._files[name, version] = sorted(Path(uri.removeprefix("file://")) for uri in opened.file_uris())
        return self._files[name, version]

    def _digest(self, name: str, version: int) -> str:
        files = self._version_files(name, version)
        if not files:
            return EMPTY
        stats = [path.stat() for path in files]
        key = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(files, stats, strict=True))
        if key not in self._digests:
            self._digests[key] = self._hashed(name, [str(path) for path in files])
        return self._digests[key]

    def _hashed(self, name: str, files: list[str]) -> str:
        if name.startswith("quarantine."):
            columns = "layer, day::VARCHAR, file, list_sort(reasons)::VARCHAR, row"
            rows = self.connection.execute(f"SELECT {columns} FROM read_parquet(?)", [files]).fetchall()
            texts = sorted(repr((*others, _without_clock(row))) for *others, row in rows)
            return f"{len(rows)} rows, {hashlib.sha256(repr(texts).encode()).hexdigest()[:16]}" if rows else EMPTY
        text = parity.row_text(catalog.table(name))
        query = f"SELECT count(*), sum(md5_number_lower(row)), sum(md5_number_upper(row)) FROM (SELECT {text} AS row FROM read_parquet(?))"
        count, low, high = self.connection.execute(query, [files]).fetchall()[0]
        return f"{count} rows, {hashlib.sha256(f'{low} {high}'.encode()).hexdigest()[:16]}" if count else EMPTY

    def _table_accounts(self, name: str, problems: list[str]) -> Iterator[str]:
        """The account of each commit that carried rows."""
        for path in sorted((self._path(name) / "_delta_log").glob("0*[0-9].json")):
            if path not in self._accounts:
                self._accounts[path] = _account(path)
            if (found := self._accounts[path]) is None:
                continue
            text, account = found
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


class _Noted:
    """Turns an error inside into a problem."""

    def __init__(self, problems: list[str], what: str) -> None:
        self.problems, self.what = problems, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        if isinstance(error, Exception):
            self.problems.append(f"{self.what} cannot be read: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            return True
        return False


def _account(commit: Path) -> tuple[str, dict[str, int]] | None:
    """Days and account that a commit of the log carries; None when it only created the table or tidied up, or is of a quarantine table."""
    actions = [json.loads(line) for line in commit.read_text().splitlines() if line]
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    if METADATA_KEY not in info:
        return None
    state = json.loads(info[METADATA_KEY])
    if state["run_id"] in TIDYING or not state.get("account"):
        return None
    account = {name: state["account"][name] for name in ACCOUNT}
    return f"{state['touched']} {account}", account


def _without_clock(row: str) -> str:
    return str({name: value for name, value in sorted(json.loads(row).items()) if name != "_loaded_at"})


def after_kill(before: Seen, control: Seen, now: Seen, lost: str = "") -> list[str]:
    """What is wrong right after a kill, before anything is repaired: each table, release and training set is as it was before the operation, or as it is after an undisturbed one."""
    found = list(now.problems)
    for name in sorted({*before.tables, *now.tables}):
        was, becomes, held = before.tables.get(name, EMPTY), control.tables.get(name, EMPTY), now.tables.get(name, "gone")
        if held not in (was, becomes):
            found.append(f"{name} holds {held} right after the kill; before it {was}, and undisturbed {becomes}")
        elif before.versions.get(name) == now.versions.get(name) and held != was:
            found.append(f"{name} changed from {was} to {held} without a commit")
    contents = [one.content for one in control.differing_releases]
    for at, one in enumerate(now.differing_releases):
        if at >= len(contents) or one.content != contents[at]:
            found.append(f"release {one.number} is none of the control's right after the kill")
    found += [f"release {one.number} is gone" for one in before.releases if one.number not in {other.number for other in now.releases}]
    for name in sorted({*before.training, *now.training} - {lost}):
        if now.training.get(name) != control.training.get(name):
            found.append(f"training set {name}: {now.training.get(name, 'gone')} right after the kill, {control.training.get(name)} in the control")
    return found


def after_rerun(control: Seen, now: Seen) -> list[str]:
    """How the home differs from the control once the operation has been done."""
    found = list(now.problems)
    for what, theirs, ours in (
        ("", control.tables, now.tables),
        ("accounts of ", control.accounts, now.accounts),
        ("training set ", control.training, now.training),
    ):
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                found.append(
                    f"{what}{name}: {_only(ours.get(name), theirs.get(name))} after the rerun, {_only(theirs.get(name), ours.get(name))} in the control"
                )
    mine, others = [one.content for one in now.differing_releases], [one.content for one in control.differing_releases]
    if len(mine) != len(others):
        found.append(f"{len(mine)} releases that differ after the rerun, {len(others)} in the control")
    for at, (one, other) in enumerate(zip(mine, others, strict=False), 1):
        if one != other:
            odd = sorted(name for name in {*one[1], *other[1]} if one[1].get(name) != other[1].get(name))
            found.append(f"release {at}: horizon {one[0]}, in the control {other[0]}; other rows in {', '.join(odd) or 'no table'}")
    return found


def _only(ours: Any, theirs: Any) -> Any:
    """Of two lists, what only the first has."""
    return [one for one in ours if one not in theirs] or f"{len(ours)} of the same" if isinstance(ours, list) and isinstance(theirs, list) else ours
