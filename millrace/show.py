"""Print runs in a terminal: a line per table while they run, and tables for the summary. Piped output is plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts.report import UNCHANGED, TableReport

if TYPE_CHECKING:
    from expectations.brute_force import Verification
    from features.offline.profiles import Profile
    from features.online.consistency import Consistency
    from features.training import LeakReport
    from lake.manifest import Manifest
    from millrace.maintenance import MaintenanceReport

PIPE_WIDTH = 100_000
"""Characters. Nothing is cut or folded in a pipe, where lines are for `grep`."""
FOLDED = ("reason", "value", "default", "from")
"""Columns that a narrow terminal breaks into lines. Others keep to one line."""
CELL_WIDTH = 24
SHOWN_DIFFERENCES = 20
"""How many differences are printed."""
QUANTILES = (5, 25, 50, 75, 95)


class Grid(Table):
    """A table whose cells are plain text: square brackets are no markup, and unprintable characters are escaped."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of strings, or of `Text` that has a style."""
        super().add_row(*(Text(_printable(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def console() -> Console:
    """A console for standard output: as wide as the terminal, or as its text in a pipe."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=PIPE_WIDTH)


def print_error(message: str) -> None:
    """Print an error or a warning to standard error, in red on a terminal."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)


def line(report: TableReport) -> str:
    """One table's result in a line."""
    if report.status == UNCHANGED:
        return f"{report.table:<29} unchanged at version {report.version}"
    return (
        f"{report.table:<29} {report.account.published:>12,} rows published as version {report.version} in"
        f" {_seconds(report):.1f} s{_notes(report)}"
    )


def _notes(report: TableReport) -> str:
    account = report.account
    notes = [f"{account.quarantined:,} quarantined"] * bool(account.quarantined) + [
        f"{account.duplicates:,} duplicates"
    ] * bool(account.duplicates)
    notes += [
        f"{check.reason}: {check.failed:,} rows"
        for check in report.warnings
        if check.failed and check.severity == "warning"
    ]
    return "; " + ", ".join(notes) if notes else ""


def _seconds(report: TableReport) -> float:
    return sum(report.seconds.values())


def accounts(reports: Sequence[TableReport]) -> Grid:
    """The row account, times and throughput of each table."""
    grid = new_grid("Rows: in = published + quarantined + duplicates", "table")
    for name in (
        "rows in",
        "published",
        "quarantined",
        "duplicates",
        "version",
        "stage s",
        "audit s",
        "publish s",
        "rows/s",
    ):
        grid.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        grid.add_row(report.table, *(f"{count:,}" for count in _counts(report)), str(report.version), *_times(report))
    changed = [report for report in reports if report.status != UNCHANGED]
    if len(changed) < len(reports):
        grid.caption = (
            f"{len(reports) - len(changed)} of {len(reports)} tables were up to date: their account is that of the run"
            " that published them"
        )
    return grid


def _counts(report: TableReport) -> tuple[int, int, int, int]:
    account = report.account
    return account.rows_in, account.published, account.quarantined, account.duplicates


def _times(report: TableReport) -> tuple[str, ...]:
    if report.status == UNCHANGED:
        return "", "", "", "unchanged"
    total = _seconds(report)
    speed = f"{report.account.rows_in / total:,.0f}" if total else ""
    return *(f"{report.seconds.get(phase, 0):.2f}" for phase in ("stage", "audit", "publish")), speed


def warnings(reports: Sequence[TableReport]) -> Grid:
    """Failed checks that only warn."""
    grid = new_grid("Warnings: published, and worth a look", "table", "reason")
    grid.add_column("rows", justify="right")
    for report in reports:
        for check in report.warnings:
            grid.add_row(report.table, check.reason, f"{check.failed:,}" if check.failed is not None else "")
    return grid


def views(served: dict[str, Any]) -> Grid:
    """What was loaded into the online store."""
    grid = new_grid(f"Feast: release {served['release']}, known up to {served['horizon']}", "feature view")
    for name in ("entities", "loaded", "s", "loaded/s"):
        grid.add_column(name, justify="right")
    for view in served["views"]:
        seconds = view["seconds"]
        speed = f"{view['loaded'] / seconds:,.0f}" if seconds else view["status"]
        grid.add_row(
            view["view"],
            f"{view['rows']:,}",
            f"{view['loaded']:,}" if seconds else "",
            f"{seconds:.2f}" if seconds else "",
            speed,
        )
    if served["consistency"]:
        grid.caption = comparison(served["consistency"])
    return grid


def comparison(consistency: dict[str, Any]) -> str:
    """How many values were compared online and offline before serving. All are equal: a difference fails the run."""
    values = sum(feature["compared"] for feature in consistency["features"])
    return f"Training and serving compared: {values:,} values of {len(consistency['features'])} features, all the same"


def consistency(result: Consistency) -> Grid:
    """Each feature: how many entities were compared online and offline, and how their values differ."""
    title = f"Served and trained on: release {result.release}, as of {result.horizon}"
    grid = new_grid(title, "feature view", "feature")
    for name in ("compared", "mismatched", "missing", "extra"):
        grid.add_column(name, justify="right")
    grid.add_column("example")
    for feature in result.features:
        grid.add_row(
            feature.view,
            feature.feature,
            *(f"{count:,}" for count in (feature.compared, feature.mismatched, feature.missing, feature.extra)),
            feature.example,
        )
    return grid


def sizes(rows: Sequence[tuple]) -> Grid:
    """Version, rows and size of each table."""
    grid = new_grid("Published tables", "table")
    for name in ("version", "rows", "MB"):
        grid.add_column(name, justify="right")
    for name, version, count, size in rows:
        grid.add_row(name, str(version), f"{count:,}", f"{size / 1e6:.1f}")
    return grid


def settings(rows: Sequence[dict[str, str]]) -> Iterator[Grid]:
    """One grid per section. Wrong values are marked; unknown variables have no default."""
    for section, group in groupby(rows, key=lambda row: row["section"]):
        grid = new_grid(section, "variable", "value", "default", "from")
        for row in group:
            value = _printable(row["value"] or "-") + (" (wrong)" if row["problem"] and row["default"] else "")
            style = "red" if row["problem"] else ""
            grid.add_row(row["name"], Text(value, style), row["default"], row["source"])
        yield grid


def maintenance(title: str, removed: str, reports: Sequence[MaintenanceReport]) -> Grid:
    """Data files and removed files of each table, and how many versions are pinned. `removed` heads that column."""
    grid = new_grid(title, "table")
    for name in ("version", "data files", removed, "pinned versions"):
        grid.add_column(name, justify="right")
    for report in reports:
        counts = (report.files, report.gone, len(report.pinned))
        grid.add_row(report.table, str(report.version), *(f"{count:,}" for count in counts))
    return grid


def pairs(title: str, values: dict[str, Any]) -> Grid:
    """Names and values."""
    grid = new_grid(title, "feature", "value")
    for name, value in values.items():
        grid.add_row(name, "" if value is None else str(value))
    return grid


def differences(verification: Verification) -> Grid:
    """The first values that differ from a brute-force count."""
    grid = new_grid("Expected by a count of the events, found in the table", "key", "midnight", "feature")
    for name in ("expected", "found"):
        grid.add_column(name, justify="right")
    for difference in verification.differences[:SHOWN_DIFFERENCES]:
        key = ", ".join(map(str, difference.key))
        grid.add_row(
            key, f"{difference.at:%Y-%m-%d}", difference.feature, str(difference.expected), str(difference.found)
        )
    return grid


def profile(result: Profile) -> Iterator[Grid]:
    """Three grids: the statistics of each column, its quantiles, its most frequent values."""
    figures = new_grid("Columns", "column", "type")
    for name in ("NULLs", "distinct", "min", "max", "mean", "deviation"):
        figures.add_column(name, justify="right", no_wrap=True)
    quantiles = new_grid("Quantiles: at least so many percent of the cells are no larger", "column")
    for percent in QUANTILES:
        quantiles.add_column(f"{percent} %", justify="right", no_wrap=True)
    frequent = new_grid("Most frequent values, and their rows", "column", "first", "second", "third")
    for column in result.columns:
        nulls = f"{column.nulls:,}" + (f" + {column.nans:,} NaN" if column.nans else "")
        distinct = "" if column.distinct is None else f"{column.distinct:,}"
        figures.add_row(
            column.name,
            _short(column.type),
            nulls,
            distinct,
            *map(_cell, (column.minimum, column.maximum, column.mean, column.deviation)),
        )
        if column.quantiles:
            quantiles.add_row(column.name, *(_cell(column.quantile(percent)) for percent in QUANTILES))
        if column.frequent:
            frequent.add_row(
                column.name, *(Text.assemble(_cell(value), f" ({rows:,})") for value, rows in column.frequent[:3])
            )
    return iter([figures, quantiles, frequent])


def _short(type_: str) -> str:
    """`decimal128(12, 2)` as `decimal(12,2)`, `timestamp[us, tz=UTC]` as `timestamp`."""
    return type_.split("[")[0].replace("decimal128", "decimal").replace(", ", ",")


def _cell(value: Any) -> Text:
    """A value in at most 24 characters of plain text; unprintable characters are escaped, and midnight is a date."""
    if isinstance(value, datetime):
        text = f"{value:%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00")
    elif isinstance(value, float):
        text = f"{value:,.6g}"
    elif isinstance(value, str):
        text = _printable(value) or "''"
    else:
        text = "" if value is None else str(value)
    return Text(text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def training_sets(manifests: Sequence[Manifest]) -> Grid:
    """All training sets, one per row."""
    grid = new_grid("Training sets", "name", "service", "made at")
    for name in ("rows", "features", "release"):
        grid.add_column(name, justify="right")
    for manifest in manifests:
        release = f"up to {manifest.release}" if manifest.knowledge_time else str(manifest.release)
        grid.add_row(
            manifest.name,
            manifest.service,
            manifest.created_at,
            f"{manifest.rows:,}",
            str(len(manifest.features)),
            release,
        )
    return grid


def origin(manifest: Manifest) -> Grid:
    """What a training set was made from."""
    grid = new_grid(f"Training set {manifest.name}: {manifest.rows:,} rows of {manifest.service}", "what", "value")
    grid.add_row("made at", manifest.created_at)
    last = manifest.release
    grid.add_row("release", f"each label's own, up to {last}" if manifest.knowledge_time else str(last))
    for release in manifest.releases:
        versions = ", ".join(f"{table} {version}" for table, version in release.tables.items())
        grid.add_row(f"  release {release.number}", versions)
    code = manifest.code
    of_project = f", project's commit {code.project}" if code.project else ""
    grid.add_row("code", f"{code.version}, commit {code.commit or 'unknown'}{of_project}, pyarrow {code.pyarrow}")
    grid.add_row("seed", "" if manifest.seed is None else str(manifest.seed))
    if beyond := manifest.beyond_horizon:
        grid.add_row("after the horizon", f"{beyond:,} labels, which have the features of {manifest.horizon}")
    grid.add_row("labels", ", ".join(manifest.labels))
    grid.add_row("digest", manifest.data.digest)
    return grid


def features_of(manifest: Manifest) -> Grid:
    """The features of a training set, and how many rows lack them."""
    grid = new_grid("Features", "feature", "view")
    for name in ("NULLs", "of rows"):
        grid.add_column(name, justify="right")
    for feature in manifest.features:
        share = feature.nulls / manifest.rows
        grid.add_row(feature.name, feature.ref.split(":")[0], f"{feature.nulls:,}", f"{share:.1%}")
    return grid


def leaks(report: LeakReport) -> Grid:
    """How many values of each feature were known at label time, and how many leaked from later."""
    grid = new_grid(f"What was known at label time: {report.rows:,} labels, release {report.release}", "feature")
    for name in ("known", "corrected since", "published later", "of the future"):
        grid.add_column(name, justify="right")
    for feature in report.features:
        counts = (feature.known, feature.changed, feature.unpublished, feature.future)
        grid.add_row(feature.feature, *(f"{count:,}" for count in counts))
    return grid


def new_grid(title: str, *left: str) -> Grid:
    """A grid with a title and these left-aligned columns."""
    grid = Grid(
        title=Text(_printable(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        pad_edge=False,
    )
    for name in left:
        grid.add_column(name, no_wrap=name not in FOLDED, overflow="fold")
    return grid
