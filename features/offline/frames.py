"""Data frames of cuDF, or of pandas as its stand-in in tests: which library can run here, and the as-of join in the
methods that both have.

cuDF has neither `merge_asof` nor a stable sort. So feature rows and labels are sorted as one table, with the row number
as the last sort key, and a cumulative maximum carries the newest feature row down to the labels after it. A frame holds
only keys, instants and row numbers, none of them NULL. Feature values stay in Arrow and are taken by row number, so
none is rounded.
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
    """The requested library cannot run on this machine; the message says what is missing and what to do."""


def choose(requested: str | None = None, among: Sequence[str] = settings.JOINS) -> str:
    """The requested one of `among`, else the one that `MILLRACE_JOIN` names; `auto` is cudf where it can run and duckdb
    elsewhere. FramesError for an unknown name, and for cudf where it cannot run.
    """
    name = requested or settings.join()
    if name not in among:
        raise FramesError(f"MILLRACE_JOIN is {name!r}. Set it to one of {', '.join(among)}")
    if name == AUTO:
        return DUCKDB if _cudf_problem() else CUDF
    if name == CUDF and _cudf_problem():
        raise FramesError(
            f"cudf was requested, and {_cudf_problem()}; or set MILLRACE_JOIN=duckdb, whose results are the same"
        )
    return name


def available() -> tuple[str, ...]:
    """The DataFrame libraries that this machine can run."""
    return (PANDAS,) if _cudf_problem() else (PANDAS, CUDF)


def library(name: str) -> Any:
    """The module `pandas` or `cudf`."""
    return import_module(name)


def _cudf_problem() -> str:
    """Why cuDF cannot run here, with the remedy; empty when it can."""
    if find_spec(CUDF) is None:
        return "it is not installed. Run `make gpu` on a machine with an NVIDIA GPU"
    return (
        ""
        if gpus()
        else "the driver shows no GPU. See what `nvidia-smi` says, and that CUDA_VISIBLE_DEVICES does not hide it"
    )


def gpus() -> int:
    """Number of GPUs that this process may use. The driver is asked directly, because importing cudf takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def from_arrow(frames: Any, table: pa.Table) -> Any:
    """A frame of an Arrow table without NULLs. In pandas text stays in Arrow, because pandas' own hash tables end a
    string at the first zero byte.
    """
    if frames.__name__ == PANDAS:
        return table.to_pandas(types_mapper={pa.string(): frames.ArrowDtype(pa.string())}.get)
    return frames.DataFrame.from_arrow(table)


def to_arrow(series: Any) -> pa.Array:
    """An Arrow array of a series without NULLs."""
    return series.to_arrow() if hasattr(series, "to_arrow") else pa.array(series)


@contextmanager
def _translate_memory_error(frames: Any, rows: int) -> Iterator[None]:
    """Translate a MemoryError into a FramesError that says how many rows were too many."""
    try:
        yield
    except MemoryError as error:
        raise FramesError(
            f"{rows:,} rows do not fit the memory that {frames.__name__} has. Set MILLRACE_JOIN=duckdb, whose results"
            " are the same"
        ) from error


def counted(frames: Any, table: pa.Table) -> pa.Table:
    """The distinct rows of a table without NULLs, sorted; the column ROWS counts each."""
    if not table.num_rows:
        return table.append_column(ROWS, pa.array([], pa.int64()))
    names = table.column_names
    with _translate_memory_error(frames, table.num_rows):
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
    """One side of the join, labels or feature rows: keys and `at`, and for feature rows `created`; microseconds,
    UTC.
    """

    keys: tuple[pa.ChunkedArray, ...]
    at: pa.ChunkedArray
    created: pa.ChunkedArray | None = None

    def sortable(self, typed_like: Side, created: int, first: int) -> pa.Table:
        """Rows that can match, numbered from `first`, their keys in the types of `typed_like`; `created` replaces a
        missing creation time.
        """
        columns = {
            f"key{i}": _comparable(key.cast(typed.type))
            for i, (key, typed) in enumerate(zip(self.keys, typed_like.keys, strict=True))
        }
        created_at = pa.nulls(len(self.at), pa.int64()) if self.created is None else self.created
        numbers = pa.array(np.arange(first, first + len(self.at)))
        return pa.table(
            {**columns, "at": self.at, "created": pc.fill_null(created_at, created), "row": numbers}
        ).drop_null()


def as_of(frames: Any, labels: Side, history: Side, ttl: timedelta | None = None) -> pa.Array:
    """For each label the row number in `history` of the newest row of its key at or before the label; NULL where there
    is none.

    Among rows with the same key and `at`, the one created last wins; a row without a creation time is older than all
    others, and of rows created at the same time the last one wins. Rows older than `ttl` do not match; a ttl of zero is
    none. NULL matches nothing, neither as a key nor as an instant.
    """
    rows = np.full(len(labels.at), -1, np.int64)
    candidates, requests = history.sortable(labels, EARLIEST, 0), labels.sortable(labels, LATEST, len(history.at))
    if candidates.num_rows and requests.num_rows:
        with _translate_memory_error(frames, candidates.num_rows + requests.num_rows):
            matches = _newest(
                from_arrow(frames, pa.concat_tables([candidates, requests])),
                len(history.at),
                candidates.column_names[: len(history.keys)],
                ttl,
            )
        rows[to_arrow(matches["label"])] = to_arrow(matches["row"])
    return pa.array(rows, mask=rows < 0)


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in a type that both libraries can compare: timestamps as integers, doubles with one zero, bytes as hex
    text.
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


def _newest(rows: Any, first_label: int, keys: list[str], ttl: timedelta | None) -> Any:
    """`label` (number) and `row` (-1 for none) of a frame in which rows from `first_label` on are labels.

    Labels have the highest row numbers and the latest creation time, so they sort after the feature rows of their
    instant.
    """
    rows = rows.sort_values([*keys, "at", "created", "row"], ignore_index=True)
    rows["position"] = np.arange(len(rows))
    rows["newest"] = rows["position"].where(rows["row"] < first_label, -1).cummax()
    labels = rows[rows["row"] >= first_label].reset_index(drop=True)
    has_earlier = labels["newest"] >= 0
    candidates = rows.take(labels["newest"].where(has_earlier, 0)).reset_index(drop=True)
    is_match = has_earlier
    for key in keys:
        is_match = is_match & (candidates[key] == labels[key])
    if ttl:
        is_match = is_match & (candidates["at"] >= _oldest(labels["at"], ttl))
    labels["match"] = candidates["row"].where(is_match, -1)
    labels["label"] = labels["row"] - first_label
    return labels[["label", "match"]].rename(columns={"match": "row"})


def _oldest(at: Any, ttl: timedelta) -> Any:
    """`at - ttl`, or the smallest 64-bit integer where that would overflow."""
    microseconds = min(ttl // timedelta(microseconds=1), LATEST)
    first = EARLIEST + microseconds
    return at.where(at >= first, first) - microseconds
