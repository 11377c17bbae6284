"""Sliding windows that are exact at every midnight.

An event on day d is knowable at midnight d+1; it enters every window there and leaves a window of w days at midnight
d+1+w. `contents` has two ways to the same rows:

- For many midnights, from what enters and what leaves instead of from every window. Sums are then running sums over
  these changes. Distinct counts work alike once the days of one member (a basket, a buyer) are merged into presence
  intervals: +1 where one begins, -1 where it ends. The smallest, largest, oldest and newest value are found by a range
  of midnights over what entered.
- For a few midnights, as on any ordinary day, straight from the definition: an aggregate over the events of each
  window. Measured for one midnight of the sample: 0.04 s instead of 0.14 s.

The property tests compare both with a plain loop over the events.

Every engine pays per window partition, and there are a million (customer, product) pairs. So rows are windowed in
BUCKETS of keys, ordered by key and time, and nothing crosses from one key to the next: all that enters leaves again, so
a key's changes add up to 0, and the first row of a key is always an entry. Measured on Sail with 870,000 keys: 0.6 s
instead of 2.5 s for a running sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from contracts.interval import DAY, Interval, merged, midnight

AT, NEWEST = "_at", "_newest"
"""An event's instant, and the latest one before the midnight."""
BUCKETS = 16
FEW_MIDNIGHTS = 3
ENTERED = 0
"""Pseudo window: the change is an entry into all windows."""
EPOCH = date(1970, 1, 1)


def history_for(midnights: Interval, longest: int | None) -> Interval:
    """The days of events that decide the rows at these midnights, for windows of up to `longest` days; None: for one
    without an end.
    """
    return Interval(date.min if longest is None else midnights.start - (longest + 1) * DAY, midnights.end - DAY)


def midnights_changed_by(events: Interval, longest: int | None) -> Interval:
    """The midnights whose rows can change when events of these days change."""
    return Interval(events.start + DAY, date.max if longest is None else events.end + (longest + 1) * DAY)


@dataclass(frozen=True)
class Extreme:
    """The smallest or largest value of a column, which may be a struct, in each window, and with `any_age` the largest
    of all events so far.
    """

    largest: bool
    windows: Sequence[int]
    any_age: bool = False


@dataclass(frozen=True)
class Recent:
    """Over the `days` days that end with the day of the key's newest event: the sum of column `of`, with a `half_life`
    weighted as `Decayed` says; or its smallest value.
    """

    of: str
    days: int
    half_life: int = 0
    smallest: bool = False


@dataclass(frozen=True)
class Measures:
    """What the windows are asked for. Every key of a mapping names a result.

    `sums`: column (never NULL) -> the windows in days over which it is summed; `distinct`: column -> those in which its
    different values are counted, NULL being none; `extremes` likewise. `newest` adds the column NEWEST; `recent` needs
    it. A feature over a window of w days is column `<name>_<w>d`, without a window it is `<name>`.
    """

    sums: Mapping[str, Sequence[int]] = field(default_factory=dict)
    distinct: Mapping[str, Sequence[int]] = field(default_factory=dict)
    extremes: Mapping[str, Extreme] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)
    newest: bool = False
    trailing: tuple[int, ...] = ()
    """The windows whose ends make a row, in days, in order."""

    @property
    def running(self) -> dict[str, Sequence[int]]:
        """What enters and leaves, and so is a running sum."""
        return {**self.sums, **self.distinct}

    @property
    def looks_back(self) -> int:
        """Days that are looked back from the newest event."""
        return max((part.days for part in self.recent.values()), default=0)


def contents(events: DataFrame, midnights: Sequence[Interval], keys: Sequence[str], measures: Measures) -> DataFrame:
    """What the windows hold, a row per key and midnight of `midnights` at which that changes; none when there is no
    interval, as before the first event.

    `events` has a row per event with the keys, its instant AT and the columns that the measures name. It must reach
    back as far as `history_for` says. The result has the keys, `event_timestamp` and the columns of `Measures`.
    """
    days = (
        [interval.start + n * DAY for interval in midnights for n in range(interval.days)]
        if _are_few(midnights)
        else []
    )
    if days:
        return reduce(DataFrame.unionAll, (_at(events, day, keys, measures) for day in days))
    daily = _daily(events, keys, measures)
    inside = [(F.col("t") >= F.lit(interval.start)) & (F.col("t") < F.lit(interval.end)) for interval in midnights]
    found = totals(changes(daily, keys, measures), keys, measures).filter(reduce(or_, inside, F.lit(False)))
    if measures.recent:
        found = found.join(
            _recently(daily, daily.select(*keys, "day", NEWEST), keys, measures).drop("day"), [*keys, NEWEST]
        )
    return found.withColumn("event_timestamp", F.col("t").cast("timestamp")).drop("t")


def concerned(
    events: DataFrame, keys: Sequence[str], midnights: Sequence[Interval], trailing: Sequence[int]
) -> DataFrame:
    """Only the events of keys that have a row at one of a few midnights: those with an event on the day before, or on a
    day that a window loses.

    For many midnights that is nearly every key, and finding them would cost more than it saves.
    """
    if not _are_few(midnights):
        return events
    days = merged(
        Interval(interval.start - (w + 1) * DAY, interval.end - (w + 1) * DAY)
        for interval in midnights
        for w in (ENTERED, *trailing)
    )
    return events.join(events.filter(_on(days)).select(*keys).distinct(), list(keys), "left_semi")


def _are_few(midnights: Sequence[Interval]) -> bool:
    return sum(interval.days for interval in midnights) <= FEW_MIDNIGHTS


def _on(days: Sequence[Interval]) -> Column:
    """Whether an event lies on one of these days."""
    inside = [
        (F.col(AT) >= F.lit(midnight(interval.start))) & (F.col(AT) < F.lit(midnight(interval.end)))
        for interval in days
    ]
    return reduce(or_, inside, F.lit(False))


def day_of(instant: str) -> Column:
    """The day of an instant, UTC."""
    return F.to_date(F.col(instant)).alias("day")


# --- a few midnights, from the definition


def _at(events: DataFrame, day: date, keys: Sequence[str], measures: Measures) -> DataFrame:
    """The rows of one midnight, from the definition of a window: the events in [day - w days, day), and all before it
    for what may be of any age.
    """
    longest = None if any(part.any_age for part in measures.extremes.values()) else max(measures.trailing, default=0)
    known = events.filter(_on([history_for(Interval(day, day + DAY), longest)]))
    moved = F.max(
        F.when(
            _on([Interval(gone - DAY, gone) for gone in (day - w * DAY for w in (ENTERED, *measures.trailing))]), 1
        ).otherwise(0)
    ).alias("moved")
    since = {w: F.col(AT) >= F.lit(midnight(day - w * DAY)) for w in measures.trailing}
    summed = [
        F.sum(F.when(since[w], F.col(name)).otherwise(0)).alias(f"{name}_{w}d")
        for name, windows in measures.sums.items()
        for w in windows
    ]
    others = [*_extremes(measures, since), *([F.max(AT).alias(NEWEST)] if measures.newest else []), moved]
    if len(measures.distinct) == 1:
        [(member, counted_in)] = measures.distinct.items()
        there = [
            F.max(F.when(since[w] & F.col(member).isNotNull(), 1).otherwise(0)).alias(f"{member}_{w}d")
            for w in counted_in
        ]
        members = known.groupBy(*keys, member).agg(*summed, *there, *others)
        again = [
            F.sum(f"{name}_{w}d").alias(f"{name}_{w}d") for name, windows in measures.running.items() for w in windows
        ]
        found = members.groupBy(*keys).agg(*again, *_extremes_again(measures), F.max("moved").alias("moved"))
    else:
        counted = [
            F.count_distinct(F.when(since[w], F.col(name))).alias(f"{name}_{w}d")
            for name, windows in measures.distinct.items()
            for w in windows
        ]
        found = known.groupBy(*keys).agg(*summed, *counted, *others)
    found = found.filter("moved = 1").drop("moved")
    if measures.recent:
        by_day = _by_day(events.filter(F.col(AT) < F.lit(midnight(day))), keys, measures)
        latest_days = by_day.groupBy(*keys).agg(F.max("day").alias("day"))
        found = found.join(_recently(by_day, latest_days, keys, measures).drop("day"), list(keys))
    return found.withColumn("event_timestamp", F.lit(midnight(day)))


def _extremes(measures: Measures, since: Mapping[int, Column]) -> Iterator[Column]:
    for name, part in measures.extremes.items():
        best = F.max if part.largest else F.min
        yield from (best(F.when(since[w], F.col(name))).alias(f"{name}_{w}d") for w in part.windows)
        if part.any_age:
            yield best(name).alias(name)


def _extremes_again(measures: Measures) -> Iterator[Column]:
    for name, part in measures.extremes.items():
        columns = [*(f"{name}_{w}d" for w in part.windows), *([name] if part.any_age else [])]
        yield from ((F.max if part.largest else F.min)(column).alias(column) for column in columns)
    if measures.newest:
        yield F.max(NEWEST).alias(NEWEST)


# --- many midnights, from what enters and leaves


def _daily(events: DataFrame, keys: Sequence[str], measures: Measures) -> DataFrame:
    """One row per key and day: the sums and extremes of the day, the marks of the members who come and go, and what
    `recent` looks back on.
    """
    summed = [F.sum(name).alias(name) for name in measures.sums]
    kept = [*_of_the_day(measures), *([F.max(AT).alias(NEWEST)] if measures.newest else []), *_looked_back_on(measures)]
    if not measures.distinct:
        return events.groupBy(*keys, day_of(AT)).agg(*summed, *kept)
    (member, counted_in), *others = measures.distinct.items()
    by_member = [F.col(key) for key in (*keys, member)]
    carried = [*summed, *kept]
    members = (
        events.groupBy(*by_member, day_of(AT)).agg(*carried)
        if carried
        else events.select(*by_member, day_of(AT)).distinct()
    )
    marked = with_presence(members, keys, member, counted_in)
    again = [
        *_of_the_day(measures),
        *([F.max(NEWEST).alias(NEWEST)] if measures.newest else []),
        *_looked_back_on(measures, again=True),
    ]
    again += [F.sum(name).alias(name) for name in measures.sums]
    daily = marked.groupBy(*keys, "day").agg(*again, *presence(member, counted_in))
    for name, windows in others:
        there = events.filter(F.col(name).isNotNull()).select(*keys, name, day_of(AT)).distinct()
        marks = with_presence(there, keys, name, windows).groupBy(*keys, "day").agg(*presence(name, windows))
        daily = daily.join(marks, [*keys, "day"], "left").fillna(
            0, [f"{name}_{way}_{w}" for w in windows for way in ("in", "out")]
        )
    return daily


def _of_the_day(measures: Measures) -> list[Column]:
    return [(F.max if part.largest else F.min)(name).alias(name) for name, part in measures.extremes.items()]


def changes(daily: DataFrame, keys: Sequence[str], measures: Measures) -> DataFrame:
    """What enters and leaves: `daily` has a row per key and `day`; the result one per key and midnight `t`.

    For each sum and count and each of its windows, `<name>_<w>d` is the change of that window's value at t. A count's
    entries and exits are columns `<name>_in_<w>` and `<name>_out_<w>` of `daily` (see `with_presence`). An extreme is
    what enters, NULL where nothing does. NEWEST becomes steps in microseconds from one entry to the next, across keys
    too, so that a running sum of the steps is the latest value.
    """
    if measures.newest:
        instant = F.unix_micros(NEWEST)
        daily = daily.withColumn("step", instant - F.coalesce(F.lag(instant).over(_in_buckets(keys, "day")), F.lit(0)))
    moved = daily.withColumn("w", F.explode(F.array(*(F.lit(w) for w in (ENTERED, *measures.trailing))))).withColumn(
        "t", F.expr("date_add(day, w + 1)")
    )
    changed = [_change(name, name, w).alias(f"{name}_{w}d") for name, windows in measures.sums.items() for w in windows]
    changed += [
        _change(f"{name}_in_{w}", f"{name}_out_{w}", w).alias(f"{name}_{w}d")
        for name, windows in measures.distinct.items()
        for w in windows
    ]
    changed += [F.max(F.when(F.col("w") == ENTERED, F.col(name))).alias(name) for name in measures.extremes]
    steps = [F.sum(F.when(F.col("w") == ENTERED, F.col("step")).otherwise(0)).alias(NEWEST)] if measures.newest else []
    return moved.groupBy(*keys, "t").agg(*changed, *steps)


def _change(enters: str, leaves: str, window: int) -> Column:
    return F.sum(F.when(F.col("w") == ENTERED, F.col(enters)).when(F.col("w") == window, -F.col(leaves)).otherwise(0))


def totals(changed: DataFrame, keys: Sequence[str], measures: Measures) -> DataFrame:
    """The content of each window at each midnight, from what `changes` gave: the same columns, now running."""
    until = _in_buckets(keys, "t").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    running = [
        F.sum(f"{name}_{w}d").over(until).alias(f"{name}_{w}d")
        for name, windows in measures.running.items()
        for w in windows
    ]
    latest = [F.timestamp_micros(F.sum(NEWEST).over(until)).alias(NEWEST)] if measures.newest else []
    return changed.select(*keys, "t", *running, *_running_extremes(keys, measures), *latest)


def _running_extremes(keys: Sequence[str], measures: Measures) -> Iterator[Column]:
    """What entered at one of the last w midnights is in a window of w days. It does not leave as a sum does, so each
    key is a partition of its own.
    """
    ordered = Window.partitionBy(*keys).orderBy(F.datediff("t", F.lit(EPOCH)))
    for name, part in measures.extremes.items():
        best = F.max if part.largest else F.min
        yield from (
            best(name).over(ordered.rangeBetween(1 - w, Window.currentRow)).alias(f"{name}_{w}d") for w in part.windows
        )
        if part.any_age:
            yield best(name).over(ordered.rangeBetween(Window.unboundedPreceding, Window.currentRow)).alias(name)


def _in_buckets(keys: Sequence[str], *then: str) -> WindowSpec:
    return Window.partitionBy(F.pmod(F.xxhash64(*keys), F.lit(BUCKETS))).orderBy(*keys, *then)


def with_presence(days: DataFrame, keys: Sequence[str], member: str, windows: Sequence[int]) -> DataFrame:
    """Mark where the presence intervals of a member begin and end: `days` has a row per key, member and `day` on which
    the member was there.

    Adds `<member>_in_<w>` (1 when the member was in no window of w days before) and `<member>_out_<w>` (1 when it will
    have left after w days), both bigint; 0 where the member is NULL.
    """
    same = (*keys, member)
    ordered = _in_buckets(keys, member, "day")
    near = days.withColumns(
        {
            f"{side}_{name}": shift(name).over(ordered)
            for side, shift in (("before", F.lag), ("after", F.lead))
            for name in (*same, "day")
        }
    )
    first = reduce(or_, (~F.col(f"before_{name}").eqNullSafe(F.col(name)) for name in same))
    last = reduce(or_, (~F.col(f"after_{name}").eqNullSafe(F.col(name)) for name in same))
    there = F.col(member).isNotNull()
    marks = {}
    for w in windows:
        marks[f"{member}_in_{w}"] = _flag(there & (first | (F.date_add("before_day", w) < F.col("day"))))
        marks[f"{member}_out_{w}"] = _flag(there & (last | (F.date_add("day", w) < F.col("after_day"))))
    return near.select(*days.columns, *(mark.alias(column) for column, mark in marks.items()))


def _flag(condition: Column) -> Column:
    return F.when(condition, 1).otherwise(0).cast("bigint")


def presence(name: str, windows: Sequence[int]) -> list[Column]:
    """The sums of the marks of `with_presence`, for the step from members to days."""
    return [F.sum(f"{name}_{way}_{w}").alias(f"{name}_{way}_{w}") for w in windows for way in ("in", "out")]


# --- the days before the newest event


def _by_day(events: DataFrame, keys: Sequence[str], measures: Measures) -> DataFrame:
    """A row per key and `day`, with what `recent` looks back on."""
    return events.groupBy(*keys, day_of(AT)).agg(*_looked_back_on(measures))


def _looked_back_on(measures: Measures, *, again: bool = False) -> list[Column]:
    """Of a day; with `again` from the same columns of a finer grain."""
    kinds = {(part.of, part.smallest) for part in measures.recent.values()}
    return [
        (F.min if smallest else F.sum)(_daily_name(of, smallest) if again else of).alias(_daily_name(of, smallest))
        for of, smallest in sorted(kinds)
    ]


def _daily_name(of: str, smallest: bool) -> str:
    return f"_day_{'first' if smallest else 'sum'}_{of}"


def _recently(by_day: DataFrame, days: DataFrame, keys: Sequence[str], measures: Measures) -> DataFrame:
    """`days`, a row per key and `day`, with the columns of `recent`: from the rows of `by_day` (see `_by_day`) in the
    days that end with it.

    Each row is offered to its own block of days and to the next one, so that the join pairs no days that lie further
    apart than two blocks: the cost grows with the length of the past, not with its square. Measured for the sample's
    year: joining only days that have others in reach costs as much in windows as it saves, and carrying the columns
    along in `totals` costs 1.2 CPU seconds of 10 more than joining them to its result.
    """
    longest = measures.looks_back
    block = F.floor(F.datediff("day", F.lit(EPOCH)) / longest).cast("bigint")
    names = sorted({_daily_name(part.of, part.smallest) for part in measures.recent.values()})
    offered = by_day.select(
        *keys, F.col("day").alias("then"), *names, F.explode(F.array(block, block + 1)).alias("block")
    )
    pairs = days.withColumn("block", block).join(offered, [*keys, "block"])
    age = F.datediff("day", "then")
    kept = pairs.filter((age >= 0) & (age < longest))
    return kept.groupBy(*days.columns).agg(
        *(_recent(part, age, longest).alias(name) for name, part in measures.recent.items())
    )


def _recent(part: Recent, age: Column, longest: int) -> Column:
    value = F.col(_daily_name(part.of, part.smallest))
    if part.half_life:
        value = value * F.round(F.pow(F.lit(2.0), 20 - age / part.half_life)).cast("bigint")
    if part.days < longest:
        value = F.when(age < part.days, value)
    if part.smallest:
        return F.min(value)
    return F.sum(value).cast("bigint")


def share(part: Column, whole: Column, empty: float | None = 0.0) -> Column:
    """part / whole as a double, `empty` where whole is 0. Both are exact, so every engine rounds the one division
    alike.
    """
    return F.when(whole == 0, F.lit(empty).cast("double")).otherwise(part.cast("double") / whole.cast("double"))
