"""DataFrames of cuDF, on a GPU, or of pandas, which has the same methods: which of them is to be had, and the as-of
join in what both can do.

cuDF has neither `merge_asof` nor a stable sort. So feature rows and labels are sorted as one table, whose last sort key
is a row number, and a cumulative maximum carries the newest feature row down to the labels after it. Only keys,
instants and row numbers, none of them NULL, go into a frame. Feature values stay in Arrow and are taken by row number,
so no type is rounded on the way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake import settings

AUTO, DUCKDB, CUDF, SPARK = settings.JOINS
PANDAS = "pandas"
"""Stands in for cuDF in tests: it has the same methods and needs no GPU. No setting selects it."""
EARLIEST, LATEST = -(2**63), 2**63 - 1
ROWS = "rows"
INSTANT = pa.timestamp("us", tz="UTC")


class FramesError(RuntimeError):
    """What was asked for cannot run on this machine; the message says what it lacks and what to do."""


def chosen(wanted: str | None = None, among: Sequence[str] = settings.JOINS) -> str:
    """One of `among`: what was asked for, else what `MILLRACE_JOIN` says. `auto` is cudf where it can run, and duckdb
    elsewhere.
    """
    asked = wanted or settings.join()
    if asked not in among:
        raise FramesError(f"MILLRACE_JOIN is {asked!r}. Set it to one of {', '.join(among)}")
    if asked == AUTO:
        return DUCKDB if _lacking() else CUDF
    if asked == CUDF and _lacking():
        raise FramesError(
            f"cudf was asked for, and {_lacking()}; or set MILLRACE_JOIN=duckdb, whose results are the same"
        )
    return asked


def available() -> tuple[str, ...]:
    """The DataFrame libraries that this machine can run."""
    return (PANDAS,) if _lacking() else (PANDAS, CUDF)


def library(name: str) -> Any:
    """The module `pandas` or `cudf`."""
    return import_module(name)


def _lacking() -> str:
    """What cuDF lacks here, with the remedy; empty when it can run."""
    if find_spec(CUDF) is None:
        return "it is not installed. Run `make gpu` on a machine with an NVIDIA GPU"
    return (
        ""
        if gpus()
        else "the driver shows no GPU. See what `nvidia-smi` says, and that CUDA_VISIBLE_DEVICES does not hide it"
    )


def gpus() -> int:
    """GPUs that the driver lets this process use; asks the driver itself, because importing cudf takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def from_arrow(frames: Any, table: pa.Table) -> Any:
    """A frame of an Arrow table without NULLs. In pandas text stays in Arrow, because the hash tables of its own end a
    text at the first zero byte.
    """
    if frames.__name__ == PANDAS:
        return table.to_pandas(types_mapper={pa.string(): frames.ArrowDtype(pa.string())}.get)
    return frames.DataFrame.from_arrow(table)


def to_arrow(series: Any) -> pa.Array:
    """An Arrow array of a series without NULLs."""
    return series.to_arrow() if hasattr(series, "to_arrow") else pa.array(series)


@contextmanager
def _memory(frames: Any, rows: int) -> Iterator[None]:
    """Say in a sentence that so many rows were too many."""
    try:
        yield
    except MemoryError as error:
        raise FramesError(
            f"{rows:,} rows do not fit the memory that {frames.__name__} has. Set MILLRACE_JOIN=duckdb, whose results"
            " are the same"
        ) from error


def counted(frames: Any, table: pa.Table) -> pa.Table:
    """The distinct rows of a table without NULLs, in order, and in the column ROWS how often each occurs."""
    if not table.num_rows:
        return table.append_column(ROWS, pa.array([], pa.int64()))
    names = table.column_names
    with _memory(frames, table.num_rows):
        groups = (
            from_arrow(frames, table)
            .groupby(names, sort=False, as_index=False)
            .size()
            .sort_values(names, ignore_index=True)
        )
    return pa.table(
        {**{name: to_arrow(groups[name]) for name in names}, ROWS: to_arrow(groups["size"]).cast(pa.int64())}
    )


@dataclass(frozen=True)
class Side:
    """Labels, or the feature rows that they are joined with: the keys and `at`, and of feature rows `created`, both in
    microseconds, UTC.
    """

    keys: tuple[pa.ChunkedArray, ...]
    at: pa.ChunkedArray
    created: pa.ChunkedArray | None = None

    def sortable(self, like: Side, created: int, first: int) -> pa.Table:
        """Rows that can match, numbered from `first` on, their keys typed as those of `like`; `created` fills in where
        none is given.
        """
        columns = {
            f"key{i}": _comparable(key.cast(typed.type))
            for i, (key, typed) in enumerate(zip(self.keys, like.keys, strict=True))
        }
        given = pa.nulls(len(self.at), pa.int64()) if self.created is None else self.created
        numbers = pa.array(np.arange(first, first + len(self.at)))
        return pa.table({**columns, "at": self.at, "created": pc.fill_null(given, created), "row": numbers}).drop_null()


def as_of(frames: Any, labels: Side, known: Side, ttl: timedelta | None = None) -> pa.Array:
    """For each label the row number in `known` of the newest row of its key that is not later than the label; NULL
    where there is none.

    Of rows with the same key and `at` the one created last counts, and one without a creation time is older than all
    others; among rows created at once it is the last. A row older than `ttl` counts as unknown; a ttl of zero is none.
    NULL matches nothing, neither as a key nor as an instant.
    """
    rows = np.full(len(labels.at), -1, np.int64)
    told, asked = known.sortable(labels, EARLIEST, 0), labels.sortable(labels, LATEST, len(known.at))
    if told.num_rows and asked.num_rows:
        with _memory(frames, told.num_rows + asked.num_rows):
            found = _newest(
                from_arrow(frames, pa.concat_tables([told, asked])),
                len(known.at),
                told.column_names[: len(known.keys)],
                ttl,
            )
        rows[to_arrow(found["label"])] = to_arrow(found["row"])
    return pa.array(rows, mask=rows < 0)


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same as integers, numbers with one zero, or text: frames know no bytes, and instants need not be more than
    integers.
    """
    if pa.types.is_timestamp(column.type):
        return column.cast(INSTANT).cast(pa.int64())
    if pa.types.is_floating(column.type):
        return pc.add(column, pa.scalar(0.0, column.type))
    if pa.types.is_binary(column.type):
        return pa.chunked_array(
            [[value if value is None else value.hex() for value in column.to_pylist()]], pa.string()
        )
    return column


def _newest(both: Any, labelled_from: int, keys: list[str], ttl: timedelta | None) -> Any:
    """`label` (number) and `row` (-1 for none) of a frame in which rows from `labelled_from` on are labels.

    Labels have the highest row numbers and the latest creation, so they come after the feature rows of their instant.
    """
    both = both.sort_values([*keys, "at", "created", "row"], ignore_index=True)
    both["place"] = np.arange(len(both))
    both["newest"] = both["place"].where(both["row"] < labelled_from, -1).cummax()
    labels = both[both["row"] >= labelled_from].reset_index(drop=True)
    before = labels["newest"] >= 0
    found = both.take(labels["newest"].where(before, 0)).reset_index(drop=True)
    same = before
    for key in keys:
        same = same & (found[key] == labels[key])
    if ttl:
        same = same & (found["at"] >= _oldest(labels["at"], ttl))
    labels["found"] = found["row"].where(same, -1)
    labels["label"] = labels["row"] - labelled_from
    return labels[["label", "found"]].rename(columns={"found": "row"})


def _oldest(at: Any, ttl: timedelta) -> Any:
    """`at - ttl`, or the beginning of time where that would not fit 64 bits."""
    microseconds = min(ttl // timedelta(microseconds=1), LATEST)
    first = EARLIEST + microseconds
    return at.where(at >= first, first) - microseconds
