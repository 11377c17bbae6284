"""How runs look in a terminal: one line a table while it runs, and the tables of a summary. Plain text when piped, as
rich does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from contracts.report import UNCHANGED, TableReport

if TYPE_CHECKING:
    from expectations.brute_force import Verification
    from features.offline.profiles import Profile
    from features.online.consistency import Consistency
    from features.training import LeakReport
    from lake.manifest import Manifest

PIPE_WIDTH = 140
CELL = 24
FEW = 20
"""Differences that are shown."""
QUANTILES = (5, 25, 50, 75, 95)


def console() -> Console:
    """A terminal as wide as it is; a pipe wide enough for the row account."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, soft_wrap=True, width=PIPE_WIDTH)


def complain(message: str) -> None:
    """Print an error or a warning to standard error, in red on a terminal."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)


def line(report: TableReport) -> str:
    """One table in one line."""
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
    """The row account, time and speed of each table."""
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
    for one in reports:
        grid.add_row(one.table, *(f"{n:,}" for n in _counts(one)), str(one.version), *_times(one))
    changed = [one for one in reports if one.status != UNCHANGED]
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
    """Checks that failed without stopping anything."""
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
        grid.caption = compared(served["consistency"])
    return grid


def compared(told: dict[str, Any]) -> str:
    """How many values were compared online and offline before they were served; any that differed had failed the
    run.
    """
    values = sum(one["compared"] for one in told["features"])
    return f"Training and serving compared: {values:,} values of {len(told['features'])} features, all the same"


def consistency(told: Consistency) -> Grid:
    """Each feature: how many entities were compared online and offline, and how their values differ."""
    grid = new_grid(f"Served and trained on: release {told.release}, as of {told.horizon}", "feature view", "feature")
    for name in ("compared", "mismatched", "missing", "extra"):
        grid.add_column(name, justify="right")
    grid.add_column("example")
    for one in told.features:
        grid.add_row(
            one.view,
            one.feature,
            *(f"{count:,}" for count in (one.compared, one.mismatched, one.missing, one.extra)),
            Text(one.example),
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
    """A grid of each section."""
    for section, group in groupby(rows, key=lambda row: row["section"]):
        grid = new_grid(section, "variable", "value", "default", "from")
        for row in group:
            grid.add_row(row["name"], row["value"] or "-", row["default"], row["source"])
        yield grid


def tidied(title: str, what: str, rows: Sequence[Any]) -> Grid:
    """Files of each table's newest version, those that went, and how many versions are pinned."""
    grid = new_grid(title, "table")
    for name in ("version", "data files", what, "pinned versions"):
        grid.add_column(name, justify="right")
    for one in rows:
        grid.add_row(one.table, str(one.version), f"{one.files:,}", f"{one.gone:,}", f"{len(one.pinned):,}")
    return grid


def pairs(title: str, values: dict[str, Any]) -> Grid:
    """Names and values."""
    grid = new_grid(title, "feature", "value")
    for name, value in values.items():
        grid.add_row(name, "" if value is None else str(value))
    return grid


def differences(found: Verification) -> Grid:
    """The first values that are not what a count gives."""
    grid = new_grid("Expected by a count of the events, found in the table", "key", "midnight", "feature")
    for name in ("expected", "found"):
        grid.add_column(name, justify="right")
    for difference in found.differences[:FEW]:
        key = ", ".join(map(str, difference.key))
        grid.add_row(
            key, f"{difference.at:%Y-%m-%d}", difference.feature, str(difference.expected), str(difference.found)
        )
    return grid


def profile(told: Profile) -> Iterator[Grid]:
    """The figures of each column, its quantiles, its most frequent values."""
    figures = new_grid("Columns", "column", "type")
    for name in ("NULLs", "distinct", "min", "max", "mean", "deviation"):
        figures.add_column(name, justify="right", no_wrap=True)
    quantiles = new_grid("Quantiles: at least so many percent of the cells are no larger", "column")
    for percent in QUANTILES:
        quantiles.add_column(f"{percent} %", justify="right", no_wrap=True)
    frequent = new_grid("Most frequent values, and their rows", "column", "first", "second", "third")
    for one in told.columns:
        nulls = f"{one.nulls:,}" + (f" + {one.nans:,} NaN" if one.nans else "")
        distinct = "" if one.distinct is None else f"{one.distinct:,}"
        figures.add_row(
            one.name,
            _short(one.type),
            nulls,
            distinct,
            *map(_cell, (one.minimum, one.maximum, one.mean, one.deviation)),
        )
        if one.quantiles:
            quantiles.add_row(one.name, *(_cell(one.quantile(percent)) for percent in QUANTILES))
        if one.frequent:
            frequent.add_row(
                one.name, *(Text.assemble(_cell(value), f" ({rows:,})") for value, rows in one.frequent[:3])
            )
    return iter([figures, quantiles, frequent])


def _short(type_: str) -> str:
    """`decimal128(12, 2)` as `decimal(12,2)`, `timestamp[us, tz=UTC]` as `timestamp`."""
    return type_.split("[")[0].replace("decimal128", "decimal").replace(", ", ",")


def _cell(value: Any) -> Text:
    """A value in at most 24 characters, never as markup; what cannot be printed is escaped, and midnight is a date."""
    if isinstance(value, datetime):
        text = f"{value:%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00")
    elif isinstance(value, float):
        text = f"{value:,.6g}"
    elif isinstance(value, str):
        text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in value) or "''"
    else:
        text = "" if value is None else str(value)
    return Text(text if len(text) <= CELL else text[: CELL - 1] + "…")


def training_sets(rows: Sequence[Manifest]) -> Grid:
    """What training sets there are."""
    grid = new_grid("Training sets", "name", "service", "made at")
    for name in ("rows", "features", "release"):
        grid.add_column(name, justify="right")
    for one in rows:
        known = f"up to {one.release}" if one.knowledge_time else str(one.release)
        grid.add_row(one.name, one.service, one.created_at, f"{one.rows:,}", str(len(one.features)), known)
    return grid


def origin(made: Manifest) -> Grid:
    """What a training set was made from."""
    grid = new_grid(f"Training set {made.name}: {made.rows:,} rows of {made.service}", "what", "value")
    grid.add_row("made at", made.created_at)
    grid.add_row("release", f"each label's own, up to {made.release}" if made.knowledge_time else str(made.release))
    for one in made.releases:
        grid.add_row(
            f"  release {one.number}", ", ".join(f"{table} {version}" for table, version in one.tables.items())
        )
    grid.add_row("code", f"{made.code.version}, commit {made.code.commit or 'unknown'}, pyarrow {made.code.pyarrow}")
    grid.add_row("seed", "" if made.seed is None else str(made.seed))
    if made.beyond_horizon:
        grid.add_row("after the horizon", f"{made.beyond_horizon:,} labels, which have the features of {made.horizon}")
    grid.add_row("labels", ", ".join(made.labels))
    grid.add_row("digest", made.data.digest)
    return grid


def features_of(made: Manifest) -> Grid:
    """The features of a training set, and how many rows lack them."""
    grid = new_grid("Features", "feature", "view")
    for name in ("NULLs", "of rows"):
        grid.add_column(name, justify="right")
    for one in made.features:
        grid.add_row(one.name, one.ref.split(":")[0], f"{one.nulls:,}", f"{one.nulls / made.rows:.1%}")
    return grid


def leaks(found: LeakReport) -> Grid:
    """What each feature knew too early."""
    grid = new_grid(f"What was known at label time: {found.rows:,} labels, release {found.release}", "feature")
    for name in ("known", "corrected since", "published later", "of the future"):
        grid.add_column(name, justify="right")
    for one in found.features:
        grid.add_row(one.feature, *(f"{count:,}" for count in (one.known, one.changed, one.unpublished, one.future)))
    return grid


def new_grid(title: str, *left: str) -> Grid:
    """A table with a title and these columns, flush left."""
    grid = Grid(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        pad_edge=False,
    )
    for name in left:
        grid.add_column(name, no_wrap=name != "reason")
    return grid
