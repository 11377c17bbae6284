"""The as-of join of data frames against a search in plain Python and against DuckDB's ASOF join, on hostile tables; who
is chosen to join.
"""

import ctypes
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.offline import frames
from features.offline.frames import EARLIEST, LATEST, FramesError, Side
from lake import settings as places

CUDF_LIKE = "tests.unit.features.offline.cudf_like"
Row = tuple[Any, Any, int | None, int | None]
"""Number, text, instant and creation (microseconds) of a feature row."""
Label = tuple[Any, Any, int | None]

YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
numbers = st.sampled_from([None, 0, 1, 12, 2**53, 2**53 + 1, EARLIEST, LATEST, LATEST - 1])
texts = st.sampled_from([None, "", "3", "23", "Ærø", "ærø", "æro\u0308", "日本", "\U0001f600", "a", "a\x00b"])
instants = st.sampled_from([None, YEAR_1, -1, 0, 1, 2, 1_483_228_800_000_000, 1_483_228_800_000_001, YEAR_9999])
known_rows = st.lists(st.tuples(numbers, texts, instants, instants), max_size=30)
ttls = st.sampled_from(
    [None, timedelta(0), timedelta(microseconds=1), timedelta(days=1), timedelta(days=200 * 365), timedelta.max]
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Row], list[Label]]:
    """Feature rows, and labels of which most have the key of a row, also at its very instant."""
    rows = draw(known_rows)
    like = st.sampled_from(rows).map(lambda row: row[:3]) if rows else st.nothing()
    near = st.tuples(like, st.sampled_from([-1, 0, 0, 1])).map(
        lambda pair: (*pair[0][:2], None if pair[0][2] is None else pair[0][2] + pair[1])
    )
    return rows, draw(st.lists(near | st.tuples(numbers, texts, instants), max_size=20))


@pytest.fixture(scope="module", params=[*frames.available(), CUDF_LIKE])
def library(request: pytest.FixtureRequest) -> Any:
    return frames.library(request.param)


def column(values: list[Any], type_: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([values], type_)


def side(rows: list[Any], created: bool) -> Side:
    numbers, texts, *times = zip(*rows, strict=True) if rows else ([], [], [], [])
    at, *made = (column([*column_], pa.int64()) for column_ in times)
    return Side((column([*numbers], pa.int64()), column([*texts], pa.string())), at, made[0] if created else None)


def joined(library: Any, rows: list[Row], labels: list[Label], ttl: timedelta | None = None) -> list[int | None]:
    return frames.as_of(library, side(labels, False), side(rows, True), ttl).to_pylist()


def searched(rows: list[Row], label: Label, ttl: timedelta | None) -> int | None:
    """The number of the row, by looking at each."""
    *key, at = label
    if None in (*key, at):
        return None
    alive = LATEST if not ttl else ttl // timedelta(microseconds=1)
    past = [
        i
        for i, (number, text, when, _) in enumerate(rows)
        if [number, text] == key and when is not None and at - alive <= when <= at
    ]
    return max(past, key=lambda i: (rows[i][2], rows[i][3] is not None, rows[i][3], i), default=None) if past else None


def asked_of_duckdb(rows: list[Row], labels: list[Label], ttl: timedelta | None) -> list[int | None]:
    """The number of the row, from DuckDB's ASOF join."""
    known, requested = side(rows, True), side(labels, False)
    with duckdb.connect() as con:
        con.register(
            "known",
            pa.table(
                {
                    "n": known.keys[0],
                    "t": known.keys[1],
                    "moment": known.at,
                    "made": known.created,
                    "i": pa.array(range(len(rows)), pa.int64()),
                }
            ),
        )
        con.register(
            "asked",
            pa.table(
                {
                    "n": requested.keys[0],
                    "t": requested.keys[1],
                    "moment": requested.at,
                    "i": pa.array(range(len(labels)), pa.int64()),
                }
            ),
        )
        alive = f"f.moment >= l.moment::HUGEINT - {ttl // timedelta(microseconds=1)}" if ttl else "true"
        newest = (
            "SELECT * FROM known QUALIFY row_number() OVER (PARTITION BY n, t, moment ORDER BY made DESC NULLS LAST, i"
            " DESC) = 1"
        )
        query = f"""SELECT CASE WHEN {alive} THEN f.i END FROM asked l ASOF LEFT JOIN ({newest}) f
            ON l.n = f.n AND l.t = f.t AND l.moment >= f.moment ORDER BY l.i"""
        return [row[0] for row in con.execute(query).fetchall()]


@settings(max_examples=200, deadline=None)
@given(both=tables(), ttl=ttls)
def test_equals_a_search_in_plain_python_and_duckdb(
    library: Any, both: tuple[list[Row], list[Label]], ttl: timedelta | None
) -> None:
    rows, labels = both
    result = joined(library, rows, labels, ttl)
    assert result == [searched(rows, label, ttl) for label in labels]
    assert result == asked_of_duckdb(rows, labels, ttl)


def test_three_rows_three_labels(library: Any) -> None:
    rows = [(1, "a", 10, None), (1, "a", 20, None), (2, "a", 5, None)]
    assert joined(library, rows, [(2, "a", 4), (1, "a", 20), (1, "a", 19)]) == [None, 1, 0]


def test_labels_keep_their_order_and_repeat(library: Any) -> None:
    rows = [(1, "a", 10, None), (2, "a", 10, None)]
    assert joined(library, rows, [(2, "a", 99), (1, "a", 99), (2, "a", 99), (1, "a", 9)]) == [1, 0, 1, None]


def test_of_tied_rows_the_one_created_last_counts_and_never_created_is_oldest(library: Any) -> None:
    rows = [(1, "a", 10, 7), (1, "a", 10, 9), (1, "a", 10, 8), (1, "b", 10, YEAR_1), (1, "b", 10, None)]
    assert joined(library, rows, [(1, "a", 10), (1, "b", 10)]) == [1, 3]


def test_of_rows_created_at_once_the_last_counts_also_without_a_stable_sort(library: Any) -> None:
    rows = [(1, "a", 10, None)] * 9 + [(1, "a", 10, 5)] * 9
    assert joined(library, rows, [(1, "a", 10)] * 9) == [17] * 9
    assert joined(library, [(1, "a", 10, LATEST)] * 9, [(1, "a", 10)] * 9) == [8] * 9


def test_null_matches_nothing_not_even_null(library: Any) -> None:
    rows = [(None, "a", 10, None), (1, None, 10, None), (1, "a", None, None)]
    assert joined(library, rows, [(None, "a", 10), (1, None, 10), (1, "a", None), (1, "a", 99)]) == [None] * 4


def test_keys_next_to_each_other_stay_apart(library: Any) -> None:
    """2**53 and 2**53 + 1 are the same double."""
    rows = [(2**53, "a", 10, None), (2**53 + 1, "a", 5, None)]
    assert joined(library, rows, [(2**53 + 1, "a", 20), (2**53, "a", 20), (2**53 + 2, "a", 20)]) == [1, 0, None]


def test_a_zero_byte_ends_no_text(library: Any) -> None:
    rows = [(1, "a\x00b", 10, None), (1, "a", 5, None)]
    assert joined(library, rows, [(1, "a", 20), (1, "a\x00b", 20), (1, "a\x00", 20)]) == [1, 0, None]
    counted = frames.counted(library, pa.table({"v": ["a\x00b", "a", "a\x00b"]}))
    assert counted.to_pydict() == {"v": ["a", "a\x00b"], "rows": [1, 2]}


def test_a_row_lives_for_the_ttl_and_no_longer(library: Any) -> None:
    rows = [(1, "a", 10, None)]
    assert joined(library, rows, [(1, "a", 15), (1, "a", 16)], timedelta(microseconds=5)) == [0, None]


def test_an_instant_before_which_the_ttl_does_not_fit(library: Any) -> None:
    assert joined(library, [(1, "a", EARLIEST, None)], [(1, "a", EARLIEST + 1)], timedelta(days=1)) == [0]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [([], [(1, "a", 1)]), ([(1, "a", 1, None)], []), ([], []), ([(None, "a", 1, None)], [(1, "a", 1)])],
)
def test_empty_sides(library: Any, rows: list[Row], labels: list[Label]) -> None:
    result = frames.as_of(library, side(labels, False), side(rows, True))
    assert (result.type, result.to_pylist()) == (pa.int64(), [None] * len(labels))


@pytest.mark.parametrize(
    ("type_", "known_type", "values"),
    [
        (pa.bool_(), pa.bool_(), [True, False]),
        (pa.int32(), pa.int64(), [-5, 7]),
        (pa.int64(), pa.decimal128(38, 0), [LATEST, LATEST - 1]),
        (pa.float64(), pa.float64(), [0.1, 0.1 + 2**-56]),
        (pa.float32(), pa.float64(), [0.5, -0.5]),
        (pa.binary(), pa.binary(), [b"\x00", b""]),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), [YEAR_1, YEAR_1 + 1]),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), ["é", "e\u0301"]),
    ],
    ids=str,
)
def test_keys_of_every_type(library: Any, type_: pa.DataType, known_type: pa.DataType, values: list[Any]) -> None:
    at = column([1, 1, 1], pa.int64())
    labels, known = (
        Side((column([values[1], None, values[0]], type_),), at),
        Side((column([values[0], values[1], None], known_type),), at),
    )
    assert frames.as_of(library, labels, known).to_pylist() == [1, None, 0]


def test_zero_has_no_sign(library: Any) -> None:
    at, later = column([1], pa.int64()), column([2], pa.int64())
    known = Side((column([-0.0], pa.float64()),), at)
    labels = Side((column([0.0], pa.float64()),), later)
    assert frames.as_of(library, labels, known).to_pylist() == [0]
    assert (
        str(known.sortable(labels, 0, 0)["key0"].to_pylist()) == "[0.0]"
    )  # whatever the sort of a library makes of -0.0


def test_rows_that_do_not_fit_the_memory(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError("std::bad_alloc: out_of_memory")

    monkeypatch.setattr(library.DataFrame, "sort_values", exhausted)
    with pytest.raises(FramesError, match=r"2 rows do not fit the memory that .* has\. Set MILLRACE_JOIN=duckdb"):
        joined(library, [(1, "a", 1, None)], [(1, "a", 1)])
    with pytest.raises(FramesError, match="3 rows do not fit"):
        frames.counted(library, pa.table({"v": [1, 2, 3]}))


class TestChoice:
    @pytest.fixture(autouse=True)
    def _nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MILLRACE_JOIN", raising=False)

    @pytest.fixture
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def has(*, cudf: bool, gpus: int) -> None:
            monkeypatch.setattr(frames, "find_spec", lambda _name: object() if cudf else None)
            monkeypatch.setattr(frames, "gpus", lambda: gpus)

        return has

    @pytest.mark.parametrize(
        ("cudf", "gpus", "who"), [(True, 1, "cudf"), (True, 0, "duckdb"), (False, 1, "duckdb"), (False, 0, "duckdb")]
    )
    def test_auto_is_cudf_where_it_can_run(self, machine: Any, cudf: bool, gpus: int, who: str) -> None:
        machine(cudf=cudf, gpus=gpus)
        assert frames.choose() == frames.choose("auto") == who
        assert frames.available() == (("pandas", "cudf") if who == "cudf" else ("pandas",))

    def test_what_is_asked_for_wins_over_the_environment(self, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(cudf=True, gpus=1)
        monkeypatch.setenv("MILLRACE_JOIN", "cudf")
        assert (frames.choose(), frames.choose("duckdb")) == ("cudf", "duckdb")

    def test_cudf_that_is_not_installed(self, machine: Any) -> None:
        machine(cudf=False, gpus=1)
        with pytest.raises(
            FramesError,
            match=r"cudf was requested, and it is not installed\. Run `make gpu` .*; or set MILLRACE_JOIN=duckdb",
        ):
            frames.choose("cudf")

    def test_cudf_without_a_gpu(self, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(cudf=True, gpus=0)
        monkeypatch.setenv("MILLRACE_JOIN", "cudf")
        with pytest.raises(FramesError, match=r"the driver shows no GPU\. See what `nvidia-smi` says"):
            frames.choose()

    def test_spark_joins_and_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_JOIN", "spark")
        assert frames.choose() == "spark"
        with pytest.raises(FramesError, match=r"MILLRACE_JOIN is 'spark'\. Set it to one of auto, duckdb, cudf$"):
            frames.choose(None, places.COUNTS)

    @pytest.mark.parametrize("name", ["polars", "pandas"])
    def test_an_unknown_join(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("MILLRACE_JOIN", name)
        with pytest.raises(
            places.SettingError, match=rf"MILLRACE_JOIN is '{name}'\. Set it to one of auto, duckdb, cudf, spark, or"
        ):
            frames.choose()


class Driver:
    """CUDA's driver as far as it is asked: each call answers 0, or the number of an error."""

    def __init__(self, count: int, cuInit: int = 0, cuDeviceGetCount: int = 0) -> None:  # noqa: N803 (the driver's names)
        self.count, self._init, self._get = count, cuInit, cuDeviceGetCount

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, result: Any) -> int:  # noqa: N802
        ctypes.cast(result, ctypes.POINTER(ctypes.c_int))[0] = self.count
        return self._get


@pytest.mark.parametrize(
    ("driver", "gpus"), [(Driver(2), 2), (Driver(0), 0), (Driver(3, cuInit=100), 0), (Driver(3, cuDeviceGetCount=1), 0)]
)
def test_the_driver_counts_gpus(monkeypatch: pytest.MonkeyPatch, driver: Driver, gpus: int) -> None:
    monkeypatch.setattr(frames.ctypes, "CDLL", lambda _name: driver)
    assert frames.gpus() == gpus


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(frames.ctypes, "CDLL", missing)
    assert frames.gpus() == 0
